-- Read the session without a lock; its TTL is touched as a locked load does it.
--
-- uses  base done ids life
-- flags allow-oom
-- KEYS  lock queue waiters session receipts
-- ARGV  idle_ms refresh_ms proof
-- reply found touched {field value ...} | missing | unknown | dead | destroyed     dead: the id has been replaced

local state = call('HMGET', SESSION, '#destroyed', '#replaced', '#old', '#state')
local last = parts_of(state[4])
local now = server_time()
if state[1] then
  return {ended_word(state[2], state[1], now)}
end
if not admitted(ARGV[3], last.id, state[3], now) then
  return {not_admitted(ARGV[3], state[3], now, 'unknown')}
end
if not last.created then
  return {'missing'}
end
local looked = look_after_life(last, tonumber(ARGV[1]), tonumber(ARGV[2]), now)
if looked == 'ended' then
  return {'missing'}
elseif looked then
  call('HSET', SESSION, '#state', joined(last))
end
return {'found', looked == 'touched' and 1 or 0, call('HGETALL', SESSION)}
