-- Save without holding the lock: only if nobody changed what was read of these fields. A conflict tells the whole
-- current state, so that merging needs no second load. `op` names this call, so that repeating it is known.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  op created expected_version idle_ms absolute_ms proof [op field value base]...
-- reply saved version created | already version created
--       conflict version {field value ...} {field value ... of the whole record} | gone | destroyed | missing

local op, created, expected, idle, absolute, proof = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST = 7
local state = redis.call('HMGET', SESSION, '#commit', '#version', '#created', '#destroyed', '#id', '#old')
if finished(op, state[1]) then
  return {'already', state[2] or '0', state[3] or ''}
end
if state[4] then
  return {'destroyed'}
end
local now = server_time()
if not admitted(proof, state[5], state[6], state[3], now) then
  return {'missing'}
end
if expected ~= '' and expected ~= (state[2] or '0') then
  return {'conflict', state[2] or '0', {}, redis.call('HGETALL', SESSION)}
end
local refusal, version = commit_changes(FIRST, created, idle, absolute, now)
if refusal then
  if refusal[1] == 'conflict' then
    refusal[4] = redis.call('HGETALL', SESSION)
  end
  return refusal
end
keep_id(proof, state[5])
write_receipt(op, digits(now), now)
return {'saved', digits(version), redis.call('HGET', SESSION, '#created')}
