-- Extend many leases in one call; one that is not held any more is never taken anew, and none is made shorter.
--
-- flags allow-oom
-- KEYS  [lock session]...
-- ARGV  [token ttl_ms]...
-- reply [1 | 0 | -1]...     extended | lost | the session was destroyed (the lease still runs)

local call, reply = redis.call, {}
for i = 1, #ARGV, 2 do
  local lock, session, token, ttl = KEYS[i], KEYS[i + 1], ARGV[i], tonumber(ARGV[i + 1])
  local n = #reply + 1
  if call('GET', lock) ~= token then
    reply[n] = 0
  else
    if call('PTTL', lock) < ttl then
      call('PEXPIRE', lock, ttl)
    end
    local state = call('HMGET', session, '#destroyed', '#version', '#holder')
    local claim = token .. ' claim '
    if state[3] and string.sub(state[3], 1, #claim) == claim then
      call('HSET', session, '#holder', token .. ' held ' .. string.sub(state[3], #claim + 1))
    end
    reply[n] = state[1] and -1 or 1
    -- A tombstone, or the fence of a session without a record, must last as long as the lock.
    if (state[1] or not state[2]) and call('PTTL', session) < ttl then
      call('PEXPIRE', session, ttl + 60000)
    end
  end
end
return reply
