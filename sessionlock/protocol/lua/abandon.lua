-- A waiter leaves. If it was granted meanwhile, or nobody holds the lock, it goes on to the next one. A belated acquire of this token
-- finds its completion record and takes nothing; where there was just one (once = 1), and its lock is here, none can come.
--
-- uses  base done life queue
-- flags allow-oom
-- KEYS  lock queue waiters session receipts
-- ARGV  token low deaf once
-- reply left fence more known | handed-on more   left: it had no lock here; fence: the highest granted; more: as of release;
--                             known: 'done' before, 'forgotten' (it may have been), or ''

local token, low, deaf = ARGV[1], ARGV[2], ARGV[3] == '1'
local holder = call('GET', LOCK)
if ARGV[4] == '1' and holder == token and call('EXISTS', QUEUE) == 0 then
  call('DEL', LOCK)
  return {'handed-on', ''}
end
leave_queue(token) -- as the first write it is allowed, and all after it, also when Redis is out of memory
local last = parts_of(call('HGET', SESSION, '#state'))
local answer = repeated(token, last.done)
if not answer or answer[1] == 'forgotten' then
  last.done = finish(token, low, last.done)
end
call('HSET', SESSION, '#state', joined(last))
if not last.created then
  keep_mortal(SHELL_MS)
end
local more = ''
if not holder and call('EXISTS', QUEUE) == 1 or holder == token then
  local now, now_digits = server_time()
  local _, rest = hand_over(nil, nil, false, deaf, now, now_digits, last)
  more = rest == 'more' and rest or ''
end
if holder == token then
  return {'handed-on', more}
end
local known = answer and (answer[1] == 'forgotten' and 'forgotten' or answer[2] ~= REFUSED and 'done') or ''
return {'left', last.fence or '0', more, known}
