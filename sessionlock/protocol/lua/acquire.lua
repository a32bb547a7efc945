-- Take the session's lock if it is free, else join its queue. On a grant the session's TTL is touched; its fields are read
-- by an HGETALL that the client sends behind this call.
-- Repeating it (lost reply) returns the same grant; repeated after the acquisition ended it takes nothing.
--
-- uses  base done ids life queue acquire
-- KEYS  lock queue waiters session receipts
-- ARGV  token ttl_ms proof who policy ticket       who: "channel label"; policy: "missing queueing max_waiters claim_ms
--                                                  idle_ms refresh_ms patience_ms deaf"
-- reply granted fence now_us
--       queued ticket position left_ms holder_label held_us now_us     (left_ms -1: the lock has no end)
--       busy holder_label held_us waiting left_ms               (not queued: queueing = 0)
--       full holder_label held_us waiting left_ms
--       destroyed | missing | dead      dead: there may be a record, but not for this id
--       already value                   this acquisition has ended
--       forgotten floor                 it may have; a new one needs a higher number

local token, ttl, who = ARGV[1], ARGV[2], ARGV[4]
local state = call('HMGET', SESSION, '#fence', '#done', '#id', '#due', '#queued')
local now, fence, done, due = clock(), state[1], state[2], state[4]

-- The short way: nobody waits, there is a record, which need not be touched, this is its id, and the lock is free.
if due and now < due and state[3] == ARGV[3] and not state[5] and fence and #fence == 16 and fence < now and done
    and (string.sub(done, 1, 12) == string.sub(token, 1, 12) and done < token or not repeated(token, done))
    and call('SET', LOCK, token, 'NX', 'PX', ttl) then
  call('HSET', SESSION, '#fence', now, '#holder', token .. ' held ' .. now .. ' ' .. who)
  return {'granted', now, now}
end
return acquire_slowly(token, ttl, ARGV[3], who, ARGV[5], ARGV[6], fence, done, state[3], tonumber(now), now)
