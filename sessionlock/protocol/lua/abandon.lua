-- A waiter leaves. If it was granted meanwhile, the lock goes on to the next one. A belated acquire of this token
-- finds the receipt and takes nothing; where there was just one (once = 1), and its lock is here, none can come any more.
--
-- uses  base receipts queue
-- KEYS  lock queue waiters session receipts
-- ARGV  token push_limit deaf once
-- reply left fence | handed-on       left: it had no lock here; fence: the highest granted

local token, push_limit, deaf = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local holds = call('GET', LOCK) == token
if ARGV[4] == '1' and holds and call('EXISTS', QUEUE) == 0 then
  call('DEL', LOCK)
  return {'handed-on'}
end
local now, now_digits = server_time()
local state = call('HMGET', SESSION, '#fence', '#commit', '#created')
leave_queue(token)
keep_receipt(state[2], token, now)
call('HSET', SESSION, '#commit', token .. ' ' .. now_digits)
keep_mortal(SHELL_MS)
if not holds then
  return {'left', state[1] or '0'}
end
hand_over(nil, nil, push_limit, deaf, now, now_digits, state[1], state[3])
return {'handed-on'}
