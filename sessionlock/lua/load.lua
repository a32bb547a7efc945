-- Read the session without a lock; its TTL is touched as a locked load does it.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  idle_ms refresh_ms
-- reply found {field value ...} | missing | destroyed

if redis.call('HEXISTS', SESSION, '#destroyed') == 1 then
  return {'destroyed'}
end
if not exists() then
  return {'missing'}
end
touch(tonumber(ARGV[1]), tonumber(ARGV[2]), server_time())
return {'found', redis.call('HGETALL', SESSION)}
