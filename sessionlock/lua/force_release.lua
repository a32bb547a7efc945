-- Take the lock from the holder that was seen (compare and set on its token) and hand it on. The old holder's save
-- is refused from now on; it is told by push if it listens.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  token push_limit deaf
-- reply released | not-holder

local token, push_limit, deaf = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if redis.call('GET', LOCK) ~= token then
  return {'not-holder'}
end
local record = redis.call('HGET', SESSION, '#holder') or ''
local owner, channel = string.match(record, '^(%S+) %S+ %d+ (%S+) ')
if owner == token then
  redis.call('HDEL', SESSION, '#holder')
  redis.call('PUBLISH', channel, 'L ' .. token)
end
hand_over(nil, push_limit, deaf, server_time())
return {'released'}
