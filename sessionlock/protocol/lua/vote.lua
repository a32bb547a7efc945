-- Take the lock of one master of a quorum if it is free and nobody waits for it: the short way of `acquire`, for the first
-- round of an election, in which most find it so. It is asked once for each token and never repeated; when it comes late,
-- after its acquisition ended, the completion record makes it take nothing.
-- `proposed` (0: none) becomes the counter if it is higher than ours would be, so that all masters give the same one. It
-- must be near our clock: counters stay above those that are forgotten because they grow as fast as the clock.
--
-- uses  base done queue
-- KEYS  lock queue waiters session receipts
-- ARGV  token ttl_ms who proposed       who: "channel label"
-- reply granted fence now_us | busy | already value | forgotten floor

local token, ttl, who, proposed = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local NEAR_US = 1000000
if call('EXISTS', LOCK, QUEUE) > 0 then
  return {'busy'}
end
local last = parts_of(call('HGET', SESSION, '#state'))
local answer = repeated(token, last.done)
if answer then
  return answer
end
local now, now_digits = server_time()
if proposed > now and proposed <= now + NEAR_US and proposed > (number_in(last.fence) or 0) then
  last.fence = digits(proposed - 1)
end
local fence = grant(token, ttl, 'held', who, now, now_digits, last)
return {'granted', fence, now_digits}
