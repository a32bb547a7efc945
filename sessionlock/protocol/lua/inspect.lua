-- Who holds the lock, for how long still, and who waits. Changes nothing.
--
-- uses  base
-- flags no-writes
-- KEYS  lock queue waiters session receipts
-- ARGV  waiters                             1: they are told, too; 0: none is, however many there are
-- reply token left_ms now_us {state version destroyed holder} {token ...} {token record ...} record_left_ms

return {
  call('GET', LOCK),
  call('PTTL', LOCK),
  digits(server_time()),
  call('HMGET', SESSION, '#state', '#version', '#destroyed', '#holder'),
  ARGV[1] == '1' and call('ZRANGE', QUEUE, 0, -1) or {},
  ARGV[1] == '1' and call('HGETALL', WAITERS) or {},
  call('PTTL', SESSION),
}
