"""How a call gets to the server and its reply back: connections, routes, pushes, repeats, outages."""
