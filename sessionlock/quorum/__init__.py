"""N independent masters that elect the holder of a lock (Redlock, fenced); the session itself is kept by one store."""
