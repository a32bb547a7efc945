-- Write down whose session this is, and when that was entered in the index of the user's sessions, which is kept apart
-- (it lies in another slot).
--
-- uses  base done ids
-- KEYS  lock queue waiters session receipts
-- ARGV  op low user proof        (user '': nobody's any more)
-- reply bound previous_user | missing | dead | destroyed | forgotten floor

local op, low, user, proof = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state = call('HMGET', SESSION, '#destroyed', '#created', '#id', '#old', '#user', '#done', '#expires')
local now = server_time()
local answer = repeated(op, state[6])
if answer and answer[1] == 'forgotten' then
  return answer
end
if state[1] then
  return {'destroyed'}
end
if not admitted(proof, state[3], state[4], now) then
  return {'dead'}
end
if not state[2] or is_over(state[7], now) then
  return {'missing'}
end
if answer then
  return {'bound', answer[2]}
end
call('HSET', SESSION, '#done', finish(op, low, state[6], state[5] or ''))
if user == '' then
  call('HDEL', SESSION, '#user', '#indexed')
else
  call('HSET', SESSION, '#user', user, '#indexed', digits(now))
end
return {'bound', state[5] or ''}
