-- Extend many leases in one call; one that is not held any more is never taken anew.
--
-- KEYS  [lock session]...
-- ARGV  [token ttl_ms]...
-- reply [1 | 0 | -1]...     extended | lost | the session was destroyed (the lease still runs)

local reply = {}
for i = 1, #ARGV, 2 do
  local lock, session, token, ttl = KEYS[i], KEYS[i + 1], ARGV[i], ARGV[i + 1]
  local n = #reply + 1
  if redis.call('GET', lock) ~= token then
    reply[n] = 0
  else
    redis.call('PEXPIRE', lock, ttl)
    local record = redis.call('HGET', session, '#holder')
    local claim = token .. ' claim '
    if record and string.sub(record, 1, #claim) == claim then
      redis.call('HSET', session, '#holder', token .. ' held ' .. string.sub(record, #claim + 1))
    end
    local state = redis.call('HMGET', session, '#destroyed', '#created')
    reply[n] = state[1] and -1 or 1
    -- A tombstone, or the fence of a session without a record, must last as long as the lock.
    if (state[1] or not state[2]) and redis.call('PTTL', session) < tonumber(ttl) then
      redis.call('PEXPIRE', session, ttl + 60000)
    end
  end
end
return reply
