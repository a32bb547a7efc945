-- A plain lock that another library took on this master for `token` gets what a grant has: the master's next counter and
-- a holder's name. Nothing is taken: without the lock there is no grant. Repeating it returns the same counter.
--
-- uses  base done queue
-- KEYS  lock queue waiters session receipts
-- ARGV  token who
-- reply adopted fence now_us left_ms | lost

local token, who = ARGV[1], ARGV[2]
if call('GET', LOCK) ~= token then
  return {'lost'}
end
local left = call('PTTL', LOCK)
if left <= 0 then
  return {'lost'} -- it ends in this very millisecond; a lock without an end is none of ours
end
local now, now_digits = server_time()
local state = call('HMGET', SESSION, '#holder', '#state')
local last = parts_of(state[2])
local fence = last.fence
if string.sub(state[1] or '', 1, #token + 1) ~= token .. ' ' then
  fence = grant(token, left, 'held', who, now, now_digits, last)
end
return {'adopted', fence, now_digits, left}
