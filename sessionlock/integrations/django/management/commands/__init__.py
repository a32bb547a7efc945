"""``manage.py sessionlock``."""
