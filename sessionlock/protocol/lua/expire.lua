-- Let the record end ttl_ms from now, whether that is sooner or later than it would; never after its absolute end.
--
-- uses  base ids
-- KEYS  lock queue waiters session receipts
-- ARGV  ttl_ms proof
-- reply kept current | missing | unknown | dead | destroyed       current 0: the id has been replaced, and works for
--                                              a while only; dead: it has been, and works no more; unknown: never did

local ttl, proof = tonumber(ARGV[1]), ARGV[2]
local state = call('HMGET', SESSION, '#destroyed', '#created', '#id', '#old', '#expires')
local now = server_time()
if state[1] then
  return {'destroyed'}
end
if not admitted(proof, state[3], state[4], now) then
  return {not_admitted(proof, state[4], now, 'unknown')}
end
if not state[2] then
  return {'missing'}
end
local expires = number_in(state[5])
if expires then
  ttl = math.min(ttl, math.floor((expires - now) / 1000))
end
call('PEXPIRE', SESSION, digits(math.max(ttl, 1)))
return {'kept', (not state[3] or state[3] == proof) and 1 or 0}
