-- Write down whose session this is; the index of that user's sessions is kept apart (it lies in another slot).
--
-- KEYS  lock queue waiters session receipts
-- ARGV  user proof        (user '': nobody's any more)
-- reply bound previous_user | missing | destroyed

local state = redis.call('HMGET', SESSION, '#destroyed', '#created', '#id', '#old', '#user')
if state[1] then
  return {'destroyed'}
end
if not state[2] or not admitted(ARGV[2], state[3], state[4], state[2], server_time()) then
  return {'missing'}
end
if ARGV[1] == '' then
  redis.call('HDEL', SESSION, '#user')
else
  redis.call('HSET', SESSION, '#user', ARGV[1])
end
return {'bound', state[5] or ''}
