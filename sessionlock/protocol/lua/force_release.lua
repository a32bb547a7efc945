-- Take the lock from the holder that was seen (compare and set on its token) and hand it on. The old holder's save
-- is refused from now on; it is told by push if it listens.
--
-- uses  base done queue
-- flags allow-oom
-- KEYS  lock queue waiters session receipts
-- ARGV  token deaf
-- reply released more | not-holder | over       more: as of release; over: it was the holder, and was the last to be taken out by force

local token, deaf = ARGV[1], ARGV[2] == '1'
if call('GET', LOCK) ~= token then
  return {call('HGET', SESSION, '#forced') == token and 'over' or 'not-holder'}
end
local state = call('HMGET', SESSION, '#holder', '#state')
local owner, channel = string.match(state[1] or '', '^(%S+) %S+ %d+ (%S+) ')
if owner == token then
  call('HDEL', SESSION, '#holder')
  call('HSET', SESSION, '#forced', token)
  push(channel, 'L ' .. token)
end
local now, now_digits = server_time()
local _, more = hand_over(nil, nil, false, deaf, now, now_digits, parts_of(state[2]))
return {'released', more == 'more' and more or ''}
