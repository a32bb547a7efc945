"""The data under the lock: the mapping, how changes merge, and how they are committed without the lock."""
