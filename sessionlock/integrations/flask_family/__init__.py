"""What Flask and Quart agree in: settings, session interface, cookie, the states of a session, answers."""
