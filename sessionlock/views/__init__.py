"""The face for view functions: where the session id comes from, the lock around the view, the cookie of its answer."""
