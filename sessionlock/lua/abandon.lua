-- A waiter leaves. If it was granted meanwhile, the lock goes on to the next one. A belated acquire of this token
-- finds the receipt and takes nothing.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  token push_limit deaf
-- reply left | handed-on

local token, push_limit, deaf = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = server_time()
leave_queue(token)
write_receipt(token, redis.call('HGET', SESSION, '#fence') or digits(now), now)
keep_mortal(SHELL_MS)
if redis.call('GET', LOCK) ~= token then
  return {'left'}
end
hand_over(nil, push_limit, deaf, now)
return {'handed-on'}
