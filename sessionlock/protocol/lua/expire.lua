-- Let the record end ttl_ms from now, whether that is sooner or later than it would; never after its absolute end.
--
-- uses  base done ids
-- flags allow-oom
-- KEYS  lock queue waiters session receipts
-- ARGV  op low ttl_ms proof
-- reply kept current | missing | unknown | dead | destroyed | forgotten floor
-- current 0: the id has been replaced, and works for a while only; dead: it has been, and works no more; unknown: it never
-- did.

local op, low, ttl, proof = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local state = call('HMGET', SESSION, '#destroyed', '#old', '#expires', '#state')
local last = parts_of(state[4])
local now = server_time()
local answer = repeated(op, last.done)
if answer and answer[1] == 'forgotten' then
  return answer
end
if state[1] then
  return {'destroyed'}
end
if not admitted(proof, last.id, state[2], now) then
  return {not_admitted(proof, state[2], now, 'unknown')}
end
if not last.created or is_over(state[3], now) then
  return {'missing'}
end
if not answer then
  local expires = number_in(state[3])
  if expires then
    ttl = math.min(ttl, math.floor((expires - now) / 1000))
  end
  -- As the first write it is allowed, and all after it, also when Redis is out of memory.
  call('PEXPIRE', SESSION, whole(math.max(ttl, 1)))
  -- Without a due time: the next load looks after its life.
  last.due, last.done = nil, finish(op, low, last.done)
  call('HSET', SESSION, '#state', joined(last))
end
return {'kept', (not last.id or last.id == proof) and 1 or 0}
