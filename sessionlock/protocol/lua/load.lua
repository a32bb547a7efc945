-- Read the session without a lock; its TTL is touched as a locked load does it.
--
-- uses  base ids touch
-- KEYS  lock queue waiters session receipts
-- ARGV  idle_ms refresh_ms proof
-- reply found touched {field value ...} | missing | unknown | dead | destroyed     dead: the id has been replaced

local state = call('HMGET', SESSION, '#destroyed', '#created', '#id', '#old')
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
local touched = touch(tonumber(ARGV[1]), tonumber(ARGV[2]), now)
return {'found', touched and 1 or 0, call('HGETALL', SESSION)}
