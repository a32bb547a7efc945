-- Save what changed, give the lock up and hand it to the next live waiter: one step. Fenced: it takes effect only
-- while token holds the lock and no higher fence has been seen. Repeating it (lost reply) answers `already`.
--
-- uses  base done ids life queue commit release
-- KEYS  lock queue waiters session receipts
-- ARGV  token fence low created more [change field value]...      created: the id's proof, if there was no record; more:
--                             "idle_ms absolute_ms refresh_ms limit_bytes measured carries deaf channel"; measured: the
--                             version that the changes were found to leave below the limit; carries 1: the session goes
--                             with a push
-- reply saved version handover | clean handover       version 0: left empty, the record has ended; handover: the grant for a waiter on that channel, '', or 'more': dead waiters were in the way, and others may wait
--       conflict version {field value ...} fence      nothing was changed and the lock is still held, with this fence
--       gone handover | destroyed handover | dead handover | large handover    nothing was saved, the lock was given up
--       already version value                 an earlier try of this very call did it
--       lost fence                            the lock is not ours any more; nothing was changed
--       untold                                nor is it, and what would tell whether it was done is gone

local token, fence, low, created, more = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local FIRST = 6

if call('GET', LOCK) ~= token then
  return too_late(token, fence, low)
end
local state = read_state(FIRST)
local replaced = state[FENCE] ~= fence
if replaced then
  local answer = not_as_granted(token, fence, state)
  if answer then
    return answer
  end
end
local clean = #ARGV < FIRST
if clean then
  call('DEL', LOCK) -- as the first write it is allowed, and all after it, also when Redis is out of memory
end
local set, reply = {'#done', finish(token, low, state[DONE])}, nil
local destroyed = not state[CREATED] and call('HGET', SESSION, '#destroyed')
if destroyed then
  reply = {call('HGET', SESSION, '#id') == '-' and 'dead' or 'destroyed'}
elseif clean then
  reply = {'clean'}
elseif replaced and state[CREATED] then
  reply = {'gone'}
else
  local refusal, version = commit_changes(FIRST, state, created, more, set, token)
  if refusal and refusal[1] == 'conflict' then
    return with_next_fence(refusal, token, fence)
  end
  reply = refusal or {'saved', version}
end
if reply[1] ~= 'saved' then
  call('HSET', SESSION, '#done', clean and set[2] or finish(token, low, state[DONE], LOST))
  if not state[CREATED] then
    keep_mortal(SHELL_MS)
  end
end
if not state[QUEUED] and (state[CREATED] or call('EXISTS', QUEUE) == 0) then
  if not clean then
    call('DEL', LOCK)
  end
  reply[#reply + 1] = ''
  return reply
end
local now, now_digits = server_time()
local idle, refresh, carries, deaf, channel = string.match(more, '^(%d+) %d+ (%d+) %d+ %S+ (%d) (%d) (%S+)')
if state[CREATED] and reply[2] ~= '0' then
  if look_after_life(tonumber(idle), tonumber(refresh), now) == 'ended' then
    state[CREATED] = nil
  end
end
local _, rest, handed = hand_over(nil, channel, carries == '1', deaf == '1', now, now_digits, fence, state[CREATED])
reply[#reply + 1] = handed or rest == 'more' and rest or ''
return reply
