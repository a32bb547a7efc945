-- Read the session without a lock; its TTL is touched as a locked load does it.
--
-- uses  base done ids life
-- flags allow-oom
-- KEYS  lock queue waiters session receipts
-- ARGV  idle_ms refresh_ms proof
-- reply found touched {field value ...} | missing | unknown | dead | destroyed     dead: the id has been replaced

local state = call('HMGET', SESSION, '#destroyed', '#created', '#id', '#old', '#due')
local now = server_time()
if state[1] then
  return {ended(state[3], state[1], now)}
end
if not admitted(ARGV[3], state[3], state[4], now) then
  return {not_admitted(ARGV[3], state[4], now, 'unknown')}
end
if not state[2] then
  return {'missing'}
end
local looked = now >= (number_in(state[5]) or 0) and look_after_life(tonumber(ARGV[1]), tonumber(ARGV[2]), now)
if looked == 'ended' then
  return {'missing'}
end
return {'found', looked == 'touched' and 1 or 0, call('HGETALL', SESSION)}
