"""A request that waits for itself: found out while it waits, and refused."""
