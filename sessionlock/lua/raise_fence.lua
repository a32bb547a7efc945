-- A quorum's holder whose masters numbered its grants differently takes the highest number as its fencing token. The other
-- masters must know it before it is used: whoever is granted the lock later gets a higher one. Only while the lock is
-- the holder's; raising it afterwards would prove nothing about who came in between. Repeating it changes nothing.
--
-- uses  base
-- KEYS  lock queue waiters session receipts
-- ARGV  token fence
-- reply raised | lost

if call('GET', LOCK) ~= ARGV[1] then
  return {'lost'}
end
if (number_in(call('HGET', SESSION, '#fence')) or 0) < tonumber(ARGV[2]) then
  call('HSET', SESSION, '#fence', ARGV[2])
end
return {'raised'}
