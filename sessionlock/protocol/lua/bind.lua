-- Write down whose session this is, and when that was entered in the index of the user's sessions, which is kept apart
-- (it lies in another slot).
--
-- uses  base done ids
-- KEYS  lock queue waiters session receipts
-- ARGV  op low user proof        (user '': nobody's any more)
-- reply bound previous_user | missing | dead | destroyed | forgotten floor

local op, low, user, proof = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state = call('HMGET', SESSION, '#destroyed', '#old', '#user', '#state', '#expires')
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
  return {'dead'}
end
if not last.created or is_over(state[5], now) then
  return {'missing'}
end
if answer then
  return {'bound', answer[2]}
end
last.done = finish(op, low, last.done, state[3] or '')
call('HSET', SESSION, '#state', joined(last))
if user == '' then
  call('HDEL', SESSION, '#user', '#indexed')
else
  call('HSET', SESSION, '#user', user, '#indexed', digits(now))
end
return {'bound', state[3] or ''}
