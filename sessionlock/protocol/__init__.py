"""What is said to Redis. No I/O: calls go out of here as words, replies come in and leave as outcomes."""
