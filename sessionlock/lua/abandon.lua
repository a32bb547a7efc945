-- A waiter leaves. If it was granted meanwhile, the lock goes on to the next one. A belated acquire of this token
-- finds the receipt and takes nothing.
--
-- uses  base receipts queue
-- KEYS  lock queue waiters session receipts
-- ARGV  token push_limit deaf
-- reply left | handed-on

local token, push_limit, deaf = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now, now_digits = server_time()
local state = call('HMGET', SESSION, '#fence', '#commit', '#created')
leave_queue(token)
keep_receipt(state[2], token, now)
call('HSET', SESSION, '#commit', token .. ' ' .. (state[1] or now_digits))
keep_mortal(SHELL_MS)
if call('GET', LOCK) ~= token then
  return {'left'}
end
hand_over(nil, nil, push_limit, deaf, now, now_digits, state[1], state[3])
return {'handed-on'}
