"""The path of one request: ask, queue, hold, renew, release. Read ``context`` first, then ``acquire``."""
