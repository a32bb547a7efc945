-- Save what changed, give the lock up and hand it to the next live waiter: one step. Fenced: it takes effect only
-- while token holds the lock and no higher fence has been seen. Repeating it (lost reply) answers `already`.
--
-- uses  base done ids life queue commit release
-- KEYS  lock queue waiters session receipts
-- ARGV  token granted before after [change field value]...   granted: what its grant was, and more (_release.lua); before: #state
--                             as it was then, after: as it is to be if it is so still; both empty where that is not so simple
-- reply <version> (saved, and nobody waits) | saved version handover | clean handover       version 0: left empty, the record has ended; handover: the grant for a waiter on that channel, '', or 'more': dead waiters were in the way, and others may wait
--       conflict version {field value ...} fence      nothing was changed and the lock is still held, with this fence
--       gone handover | destroyed handover | dead handover | large handover    nothing was saved, the lock was given up
--       already version value                 an earlier try of this very call did it
--       lost fence                            the lock is not ours any more; nothing was changed
--       untold                                nor is it, and what would tell whether it was done is gone

local token, granted = ARGV[1], ARGV[2]
local FIRST = 5

if call('GET', LOCK) ~= token then
  return too_late(token, granted)
end
local fields = read_state(FIRST)
local state, clean = fields[STATE] or '', #ARGV < FIRST
local fence, gone, after = nil, false, state == ARGV[3] and ARGV[4] or ''
if after == '' and (#state < DONE_AT - 1 or string.find(granted, string.sub(state, 1, 32), 1, true) ~= 1) then
  local answer
  fence = string.sub(granted, 1, 16)
  answer, gone = not_as_granted(token, fence, fields)
  if answer then
    return answer
  end
end
if clean then
  call('DEL', LOCK) -- as the first write it is allowed, and all after it, also when Redis is out of memory
end
if after == '' then
  after = state_after(state, fence, granted)
end
local set, reply = {'#state', after, nil, nil, nil, nil, nil, nil}, nil -- with room for more
local waits, rides = string.byte(state, QUEUED_AT) == 49, string.find(granted, '\n', MORE_AT, true)
local rider, ttl, now
if rides and not fence and not waits then
  rider, ttl, now = ride_on(granted, rides, set)
end
if fence and call('HEXISTS', SESSION, '#destroyed') == 1 then
  reply = {call('HEXISTS', SESSION, '#replaced') == 1 and 'dead' or 'destroyed'}
  rides = nil -- whoever does is to ask, and to learn that
elseif clean then
  reply = {'clean'}
elseif gone then
  reply = {'gone'}
else
  local created, proof = fence and string.sub(granted, 17, 32), nil
  if created == NO_STAMP then
    created, proof = NONE, string.match(granted, '^%d+ %d+ %d+ %d+ %S+ %d %d %S+ (%S+)', MORE_AT)
  end
  -- Whoever rides waits: the record does not end.
  local refusal, version = commit_changes(FIRST, fields, created, proof, granted, set, rides and '' or token, MORE_AT)
  if refusal and refusal[1] == 'conflict' then
    return with_next_fence(refusal, token, string.sub(granted, 1, 16), state)
  end
  if not refusal and not fence and not waits and not rides then -- the short way
    call('DEL', LOCK)
    return version
  end
  reply = refusal or {'saved', version}
end
if reply[1] ~= 'saved' then
  if not clean then
    set[2] = string.sub(set[2], 1, 16) .. string.sub(state_after(state, fence, granted, LOST), 17)
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
return hand_on(reply, granted, rides, reply[2] ~= '0' and set[2])
