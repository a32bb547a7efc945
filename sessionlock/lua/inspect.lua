-- Who holds the lock, for how long still, and who waits. Changes nothing.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  (none)
-- reply token left_ms now_us {fence version created destroyed holder} {token ...} {token record ...} record_left_ms

return {
  redis.call('GET', LOCK),
  redis.call('PTTL', LOCK),
  digits(server_time()),
  redis.call('HMGET', SESSION, '#fence', '#version', '#created', '#destroyed', '#holder'),
  redis.call('ZRANGE', QUEUE, 0, -1),
  redis.call('HGETALL', WAITERS),
  redis.call('PTTL', SESSION),
}
