-- Delete the record and leave a tombstone, at once and whoever holds the lock: a late save is refused by it.
-- Waiters are told; they need not queue for a session that is gone. The holder keeps its lock until it is done.
--
-- uses  base ids
-- KEYS  lock queue waiters session receipts
-- ARGV  tombstone_ms proof replaced        (proof '*': whatever id; for the index of a user's sessions. replaced 1:
--                                          another session has taken its place, whoever still comes with this id is told)
-- reply destroyed | missing

local state = call('HMGET', SESSION, '#id', '#old', '#created')
if ARGV[2] ~= '*' and not admitted(ARGV[2], state[1], state[2], server_time()) then
  return {'missing'}
end
local existed = state[3] or call('HEXISTS', SESSION, '#destroyed') == 1
local kept = call('HMGET', SESSION, '#fence', '#holder', '#commit')
call('DEL', SESSION)
call('HSET', SESSION, '#destroyed', digits(server_time()))
if ARGV[3] == '1' then
  call('HSET', SESSION, '#id', '-')
end
for i, field in ipairs({'#fence', '#holder', '#commit'}) do
  if kept[i] then
    call('HSET', SESSION, field, kept[i])
  end
end
-- A holder of a session that has no record yet would bring it into being once the tombstone is gone.
call('PEXPIRE', SESSION, math.max(tonumber(ARGV[1]), call('PTTL', LOCK)))
local waiters = call('HGETALL', WAITERS)
for i = 1, #waiters, 2 do
  local channel = string.match(waiters[i + 1], '^%d+ %d+ %d+ (%S+) ')
  push(channel, 'D ' .. waiters[i])
end
call('DEL', QUEUE, WAITERS)
return {existed and 'destroyed' or 'missing'}
