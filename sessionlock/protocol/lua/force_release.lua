-- Take the lock from the holder that was seen (compare and set on its token) and hand it on. The old holder's save
-- is refused from now on; it is told by push if it listens.
--
-- uses  base queue
-- KEYS  lock queue waiters session receipts
-- ARGV  token push_limit deaf
-- reply released | not-holder | over       over: it was the holder, and was the last to be taken out by force

local token, push_limit, deaf = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if call('GET', LOCK) ~= token then
  return {call('HGET', SESSION, '#forced') == token and 'over' or 'not-holder'}
end
local state = call('HMGET', SESSION, '#holder', '#fence', '#created')
local owner, channel = string.match(state[1] or '', '^(%S+) %S+ %d+ (%S+) ')
if owner == token then
  call('HDEL', SESSION, '#holder')
  call('HSET', SESSION, '#forced', token)
  push(channel, 'L ' .. token)
end
local now, now_digits = server_time()
hand_over(nil, nil, push_limit, deaf, now, now_digits, state[2], state[3])
return {'released'}
