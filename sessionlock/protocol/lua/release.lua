-- Save what changed, give the lock up and hand it to the next live waiter: one step. Fenced: it takes effect only
-- while token holds the lock and no higher fence has been seen. Repeating it (lost reply) answers `already`.
--
-- uses  base done ids life queue commit release
-- KEYS  lock queue waiters session receipts
-- ARGV  token as_granted more [change field value]...      as_granted: fence, created, low, 16 digits each; created dashes: there
--                             was no record; behind them perhaps a rider (_release.lua); more: "idle_ms absolute_ms
--                             refresh_ms limit_bytes measured carries deaf channel proof"; measured: the version that the
--                             changes were found to leave below the limit; carries 1: the session goes with a push
-- reply <version> (saved, and nobody waits) | saved version handover | clean handover       version 0: left empty, the record has ended; handover: the grant for a waiter on that channel, '', or 'more': dead waiters were in the way, and others may wait
--       conflict version {field value ...} fence      nothing was changed and the lock is still held, with this fence
--       gone handover | destroyed handover | dead handover | large handover    nothing was saved, the lock was given up
--       already version value                 an earlier try of this very call did it
--       lost fence                            the lock is not ours any more; nothing was changed
--       untold                                nor is it, and what would tell whether it was done is gone

local token, as_granted, more = ARGV[1], ARGV[2], ARGV[3]
local FIRST = 4

local low = string.sub(as_granted, 33, 48)
if call('GET', LOCK) ~= token then
  return too_late(token, string.sub(as_granted, 1, 16), low)
end
local fields = read_state(FIRST)
local state, clean = fields[STATE] or '', #ARGV < FIRST
local fence, gone = nil, false
if string.sub(state, 1, 32) ~= string.sub(as_granted, 1, 32) then
  local answer
  fence = string.sub(as_granted, 1, 16)
  answer, gone = not_as_granted(token, fence, fields)
  if answer then
    return answer
  end
end
if clean then
  call('DEL', LOCK) -- as the first write it is allowed, and all after it, also when Redis is out of memory
end
local set, reply = {'#state', with_finished(state, fence, token, low)}, nil
local waits, rides = string.byte(state, QUEUED_AT) == 49, #as_granted > RIDER_AT
local rider, ttl, now
if rides and not fence and not waits then
  rider, ttl, now = ride_on(as_granted, set)
end
if fence and call('HEXISTS', SESSION, '#destroyed') == 1 then
  reply = {call('HEXISTS', SESSION, '#replaced') == 1 and 'dead' or 'destroyed'}
  as_granted = '' -- whoever rides is to ask, and to learn that
elseif clean then
  reply = {'clean'}
elseif gone then
  reply = {'gone'}
else
  local created, proof = string.sub(as_granted, 17, 32), nil
  if created == NO_STAMP then
    created, proof = NONE, string.match(more, '%S+$')
  end
  -- Whoever rides waits: the record does not end.
  local refusal, version = commit_changes(FIRST, fields, created, proof, more, set, rides and '' or token)
  if refusal and refusal[1] == 'conflict' then
    return with_next_fence(refusal, token, string.sub(as_granted, 1, 16), state)
  end
  reply = refusal or {'saved', version}
end
if reply[1] ~= 'saved' then
  if not clean then
    set[2] = string.sub(set[2], 1, 16) .. string.sub(with_finished(state, fence, token, low, LOST), 17)
  end
  call('HSET', SESSION, unpack(set, 1, rider and 4 or 2))
  if string.byte(set[2], 17) == 48 then -- zeros: there is no record
    keep_mortal(SHELL_MS)
  end
end
if rider then
  call('SET', LOCK, rider, 'PX', ttl)
  reply[#reply + 1] = granted_to(rider, now, now, ttl)
  return reply
elseif not waits and not rides and (not fence or call('EXISTS', QUEUE) == 0) then
  if not clean then
    call('DEL', LOCK)
  end
  if reply[1] == 'saved' then
    return reply[2]
  end
  reply[#reply + 1] = ''
  return reply
end
return hand_on(reply, more, as_granted, reply[2] ~= '0' and set[2])
