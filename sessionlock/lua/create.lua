-- Make a new record; an existing one (or a tombstone) is never overwritten. `op` makes repeating it known.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  op idle_ms absolute_ms [op field value base]...
-- reply saved version {field value ...} | exists

local op, idle, absolute = ARGV[1], ARGV[2], ARGV[3]
local FIRST = 4
local state = redis.call('HMGET', SESSION, '#created', '#destroyed', '#commit', '#version')
if state[1] and finished(op, state[3]) then
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
write_receipt(op, digits(now), now)
return {'saved', digits(version), redis.call('HGETALL', SESSION)}
