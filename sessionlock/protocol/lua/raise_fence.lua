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
local fence = tonumber(ARGV[2])
local last = parts_of(call('HGET', SESSION, '#state'))
if (number_in(last.fence) or 0) < fence then
  last.fence = digits(fence)
  call('HSET', SESSION, '#state', joined(last))
  -- Not forgotten before this server's clock, by which it counts then, has come as far. A record has an end of its own.
  if not last.created then
    keep_mortal(math.ceil(math.max(0, fence - server_time()) / 1000) + SHELL_MS)
  end
end
return {'raised'}
