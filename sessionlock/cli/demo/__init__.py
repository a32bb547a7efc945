"""``sessionlock demo``: what is lost without the lock and with it, side by side."""
