-- The session, which is at another server than this lock, was destroyed: its waiters need not queue any more.
--
-- uses  base
-- KEYS  lock queue waiters session receipts
-- ARGV  (none)
-- reply dismissed

local waiters = call('HGETALL', WAITERS)
for i = 1, #waiters, 2 do
  local channel = string.match(waiters[i + 1], '^%d+ %d+ %d+ (%S+) ')
  push(channel, 'D ' .. waiters[i])
end
call('DEL', QUEUE, WAITERS)
return {'dismissed'}
