-- Write down whose session this is, and when that was entered in the index of the user's sessions, which is kept apart
-- (it lies in another slot).
--
-- uses  base ids
-- KEYS  lock queue waiters session receipts
-- ARGV  user proof        (user '': nobody's any more)
-- reply bound previous_user | missing | dead | destroyed

local state = call('HMGET', SESSION, '#destroyed', '#created', '#id', '#old', '#user')
local now = server_time()
if state[1] then
  return {'destroyed'}
end
if not admitted(ARGV[2], state[3], state[4], now) then
  return {'dead'}
end
if not state[2] then
  return {'missing'}
end
if ARGV[1] == '' then
  call('HDEL', SESSION, '#user', '#indexed')
else
  call('HSET', SESSION, '#user', ARGV[1], '#indexed', digits(now))
end
return {'bound', state[5] or ''}
