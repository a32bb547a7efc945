"""What a server is and how it is set up: looked at once, when the first call is made, and by ``sessionlock doctor``."""
