-- Delete the record and leave a tombstone, at once and whoever holds the lock: a late save is refused by it.
-- Waiters are told; they need not queue for a session that is gone. The holder keeps its lock until it is done.
--
-- uses  base done ids
-- flags allow-oom
-- KEYS  lock queue waiters session receipts
-- ARGV  op low tombstone_ms proof replaced        (proof '*': whatever id; for the index of a user's sessions. replaced
--                                          1: another session has taken its place, whoever still comes with this id is told)
-- reply destroyed user | missing | forgotten floor

local op, low, tombstone, proof, replaced = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local names = {'#fence', '#holder', '#done', '#floor', '#vector', '#id', '#old', '#created', '#user', '#destroyed', '#away'}
local state = call('HMGET', SESSION, unpack(names))
local answer = repeated(op, state[3])
if answer and answer[1] == 'already' then
  return {answer[2] == '' and 'destroyed' or answer[2], state[9] or ''}
elseif answer then
  return answer
end
if proof ~= '*' and not admitted(proof, state[6], state[7], server_time()) then
  return {'missing'}
end
local outcome = (state[8] or state[10]) and 'destroyed' or 'missing'
call('HDEL', SESSION, '#due') -- as the first write it is allowed, and all after it, also when Redis is out of memory
local done = finish(op, low, state[3], outcome)
call('DEL', SESSION)
call('HSET', SESSION, '#destroyed', digits(server_time()), '#done', done)
if replaced == '1' then
  call('HSET', SESSION, '#id', '-')
end
for _, i in ipairs({1, 2, 4, 5, 11}) do
  if state[i] then
    call('HSET', SESSION, names[i], state[i])
  end
end
-- A holder of a session that has no record yet would bring it into being once the tombstone is gone.
call('PEXPIRE', SESSION, math.max(tonumber(tombstone), call('PTTL', LOCK)))
dismiss_waiters()
return {outcome, state[9] or ''}
