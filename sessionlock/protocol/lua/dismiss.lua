-- The session, which is at another server than this lock, was destroyed: its waiters need not queue any more.
--
-- uses  base
-- flags allow-oom
-- KEYS  lock queue waiters session receipts
-- ARGV  (none)
-- reply dismissed

dismiss_waiters()
return {'dismissed'}
