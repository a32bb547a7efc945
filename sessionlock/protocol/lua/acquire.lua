-- Take the session's lock if it is free, else join its queue. On a grant the session's TTL is touched; its fields are read
-- by an HGETALL that the client sends behind this call.
-- Repeating it (lost reply) returns the same grant; repeated after the acquisition ended it takes nothing.
--
-- uses  base done ids life queue acquire
-- KEYS  lock queue waiters session receipts
-- ARGV  token ttl_ms who more       who: "channel label"; more: "proof missing queueing max_waiters claim_ms idle_ms
--                                   refresh_ms patience_ms deaf ticket"; a space before it: the
--                                   session is to be touched in any case, so the short way is not for it
-- reply <fence> (16 digits: granted, the lock was free) | granted fence now_us
--       queued ticket position left_ms holder_label held_us now_us     (left_ms -1: the lock has no end)
--       busy holder_label held_us waiting left_ms               (not queued: queueing = 0)
--       full holder_label held_us waiting left_ms
--       destroyed | missing | dead      dead: there may be a record, but not for this id
--       already value                   this acquisition has ended
--       forgotten floor                 it may have; a new one needs a higher number

local token, ttl, who = ARGV[1], ARGV[2], ARGV[3]
local state, now = call('HGET', SESSION, '#state'), clock()

-- The short way: there is a record, which need not be touched, nobody waits for it, this is its id, and the lock is free.
-- As #state begins with the fence, it is less than the clock where the fence is.
if state and state < now and now < string.sub(state, 33, 48) and string.byte(state, QUEUED_AT) == 48 and is_new(token, state)
    and string.sub(state, ID_AT, DONE_AT - 1) == string.sub(ARGV[4], 1, 26)
    and call('SET', LOCK, token, 'NX', 'PX', ttl) then
  call('HSET', SESSION, '#state', now .. string.sub(state, 17), '#holder', token .. ' held ' .. now .. ' ' .. who)
  return now
end
return acquire_slowly(token, ttl, who, ARGV[4], state, tonumber(now), now)
