-- Make a new record; an existing one (or a tombstone) is never overwritten. `op` makes repeating it known.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  op idle_ms absolute_ms [op field value base]...
-- reply saved version {field value ...} | exists

local op, idle, absolute = ARGV[1], ARGV[2], ARGV[3]
local FIRST = 4
local state = redis.call('HMGET', SESSION, '#created', '#destroyed', '#op', '#version')
if state[1] and state[3] == op then
  return {'saved', state[4], redis.call('HGETALL', SESSION)}
end
if state[1] or state[2] then
  return {'exists'}
end
local now = server_time()
local refusal, version = commit_changes(FIRST, '', idle, absolute, now)
if refusal then
  return {'exists'}
end
redis.call('HSET', SESSION, '#op', op)
return {'saved', digits(version), redis.call('HGETALL', SESSION)}
