"""What the tests share: a fault-injecting proxy, and ways to ask a server what was done to it."""
