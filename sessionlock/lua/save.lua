-- Save what changed and keep the lock. Fenced as release is; `op` names this call, so that repeating it is known.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  token fence op created idle_ms absolute_ms [op field value base]...
-- reply saved version created
--       conflict version {field value ...} | gone | destroyed      nothing was changed
--       already version created                                    an earlier try of this very call did it
--       lost fence

local token, fence, op, created, idle, absolute = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST = 7

if redis.call('GET', LOCK) ~= token then
  return not_holder(token)
end
local state = redis.call('HMGET', SESSION, '#fence', '#destroyed', '#op', '#version', '#created')
if state[1] and tonumber(state[1]) > tonumber(fence) then
  return {'lost', state[1]}
end
if state[2] then
  return {'destroyed'}
end
if state[3] == op then
  return {'already', state[4], state[5]}
end
local refusal, version = commit_changes(FIRST, created, idle, absolute, server_time())
if refusal then
  return refusal
end
redis.call('HSET', SESSION, '#op', op)
return {'saved', digits(version), redis.call('HGET', SESSION, '#created')}
