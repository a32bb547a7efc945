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
local names = {'#state', '#old', '#user', '#destroyed', '#holder', '#floor', '#away', '#vector'}
local state = call('HMGET', SESSION, unpack(names))
local last, user = parts_of(state[1]), state[3] or ''
local answer = repeated(op, last.done)
if answer and answer[1] == 'already' then
  return {answer[2] == '' and 'destroyed' or answer[2], user}
elseif answer then
  return answer
end
if proof ~= '*' and not admitted(proof, last.id, state[2], server_time()) then
  return {'missing'}
end
local outcome = (last.created or state[4]) and 'destroyed' or 'missing'
call('HDEL', SESSION, '#indexed') -- as the first write it is allowed, and all after it, also when Redis is out of memory
local left = joined({fence = last.fence, done = finish(op, low, last.done, outcome)})
call('DEL', SESSION)
call('HSET', SESSION, '#destroyed', digits(server_time()), '#state', left)
if replaced == '1' then
  call('HSET', SESSION, '#replaced', '1')
end
for i = 5, #names do
  if state[i] then
    call('HSET', SESSION, names[i], state[i])
  end
end
-- A holder of a session that has no record yet would bring it into being once the tombstone is gone.
call('PEXPIRE', SESSION, math.max(tonumber(tombstone), call('PTTL', LOCK)))
dismiss_waiters()
return {outcome, user}
