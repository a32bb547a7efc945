-- Take the session's lock if it is free, else join its queue. On a grant the session's TTL is touched; its fields are read
-- by an HGETALL that the client sends behind this call.
-- Repeating it (lost reply) returns the same grant; repeated after the acquisition ended it takes nothing.
--
-- uses  base done ids life queue acquire
-- KEYS  lock queue waiters session receipts
-- ARGV  token ttl_ms held more      held: "held now channel label", now: the server's clock (16 digits) as far as the client
--                                   knows it, zeros where it does not; more: "proof+name missing queueing max_waiters claim_ms idle_ms
--                                   refresh_ms patience_ms deaf ticket"; a space before it: the
--                                   session is to be touched in any case, so the short way is not for it
-- reply <fence> (16 digits: granted, the lock was free) | granted fence now_us
--       queued ticket position left_ms holder_label held_us now_us     (left_ms -1: the lock has no end)
--       busy holder_label held_us waiting left_ms               (not queued: queueing = 0)
--       full holder_label held_us waiting left_ms
--       destroyed | missing | dead      dead: there may be a record, but not for this id
--       already value                   this acquisition has ended
--       forgotten floor                 it may have; a new one needs a higher number

local token, ttl, held = ARGV[1], ARGV[2], ARGV[3]
local state, now = call('HGET', SESSION, '#state'), string.sub(held, 6, 21)
if now == NONE then
  now = clock()
  held = 'held ' .. now .. string.sub(held, 22)
end

-- The short way: there is a record, which need not be touched, nobody waits for it, this is its id, and the lock is free.
-- Mostly the same client finished something last, as its only record; where that was this very number, a digit of low stands
-- against the dot behind the token's, and is the greater. As #state begins with the fence, it is less than the clock where
-- the fence is. A clock that is somewhat wrong does no harm here: the fence grows all the same.
local more = ARGV[4]
if state and state < now and now < string.sub(state, 33, 48) and string.byte(state, QUEUED_AT) == 48
    and (#state == DONE_AT + 43 and string.find(more, string.sub(state, ID_AT, DONE_AT + 11), 1, true) == 1
        and string.sub(state, DONE_AT, DONE_AT + 28) < token
      or string.find(more, string.sub(state, ID_AT, DONE_AT - 1), 1, true) == 1 and not repeated(token, done_in(state)))
    and call('SET', LOCK, token, 'NX', 'PX', ttl) then
  call('HSET', SESSION, '#state', now .. string.sub(state, 17), '#holder', token .. ' ' .. held)
  return now
end
return acquire_slowly(token, ttl, string.sub(held, 23), more, state, server_time())
