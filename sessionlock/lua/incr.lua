-- Add to an integer field, atomically: under the lock (token, fenced) or without it (token '').
--
-- KEYS  lock queue waiters session receipts
-- ARGV  op token fence created idle_ms absolute_ms proof [op field value base]...     one change, an increment
-- reply saved version created value | already version created value
--       conflict version {field value}        the field is not an integer (of at most 15 digits)
--       gone | destroyed | missing | lost fence

local op, token, fence, created, idle, absolute = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local proof = ARGV[7]
local FIRST = 8
local field = ARGV[FIRST + 1]
local state = redis.call('HMGET', SESSION, '#commit', '#version', '#created', '#destroyed', '#fence', '#id', '#old')
if finished(op, state[1]) then
  return {'already', state[2] or '0', state[3] or '', redis.call('HGET', SESSION, field) or '0'}
end
local now = server_time()
if state[4] then
  return {'destroyed'}
end
if token ~= '' then
  if redis.call('GET', LOCK) ~= token or tonumber(state[5] or '0') > tonumber(fence) then
    return {'lost', state[5] or '0'}
  end
elseif not state[3] or not admitted(proof, state[6], state[7], state[3], now) then
  return {'missing'}
end
local refusal, version = commit_changes(FIRST, created, idle, absolute, now)
if refusal then
  return refusal
end
write_receipt(op, digits(now), now)
return {'saved', digits(version), redis.call('HGET', SESSION, '#created'), redis.call('HGET', SESSION, field)}
