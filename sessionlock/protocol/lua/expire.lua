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
local state = call('HMGET', SESSION, '#destroyed', '#created', '#id', '#old', '#expires', '#done')
local now = server_time()
local answer = repeated(op, state[6])
if answer and answer[1] == 'forgotten' then
  return answer
end
if state[1] then
  return {'destroyed'}
end
if not admitted(proof, state[3], state[4], now) then
  return {not_admitted(proof, state[4], now, 'unknown')}
end
if not state[2] or is_over(state[5], now) then
  return {'missing'}
end
if not answer then
  local expires = number_in(state[5])
  if expires then
    ttl = math.min(ttl, math.floor((expires - now) / 1000))
  end
  call('HDEL', SESSION, '#due') -- as the first write it is allowed, and all after it, also when Redis is out of memory
  call('HSET', SESSION, '#done', finish(op, low, state[6]))
  call('PEXPIRE', SESSION, digits(math.max(ttl, 1)))
end
return {'kept', (not state[3] or state[3] == proof) and 1 or 0}
