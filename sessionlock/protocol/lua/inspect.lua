-- Who holds the lock, for how long still, and who waits. Changes nothing.
--
-- uses  base
-- KEYS  lock queue waiters session receipts
-- ARGV  (none)
-- reply token left_ms now_us {fence version created destroyed holder} {token ...} {token record ...} record_left_ms

return {
  call('GET', LOCK),
  call('PTTL', LOCK),
  digits(server_time()),
  call('HMGET', SESSION, '#fence', '#version', '#created', '#destroyed', '#holder'),
  call('ZRANGE', QUEUE, 0, -1),
  call('HGETALL', WAITERS),
  call('PTTL', SESSION),
}
