-- Save what changed, give the lock up and hand it to the next live waiter: one step. Fenced: it takes effect only
-- while token holds the lock and no higher fence has been seen. Repeating it (lost reply) answers `already`.
--
-- uses  base receipts ids touch queue commit
-- KEYS  lock queue waiters session receipts
-- ARGV  token fence created idle_ms absolute_ms refresh_ms push_limit deaf channel [op field value base]...     created: the id's proof, if there was no record
-- reply saved version handover | clean handover       version 0: left empty, the record has ended; handover: the grant for a waiter on `channel`, or ''
--       conflict version {field value ...}    nothing was changed and the lock is still held
--       gone handover | destroyed handover | dead handover    nothing was saved, the lock was given up
--       already version                       an earlier try of this very call did it
--       lost fence                            the lock is not ours any more; nothing was changed

local token, fence, created = ARGV[1], ARGV[2], ARGV[3]
local idle, absolute, refresh = ARGV[4], ARGV[5], tonumber(ARGV[6])
local push_limit, deaf, channel = tonumber(ARGV[7]), ARGV[8], ARGV[9]
local FIRST = 10

if call('GET', LOCK) ~= token then
  return not_holder(token)
end
local state = read_state(FIRST)
if (number_in(state.fence) or 0) > tonumber(fence) then
  return {'lost', state.fence}
end

local now, now_digits = server_time()
if #ARGV < FIRST then
  call('DEL', LOCK) -- as the first write it is allowed, and all after it, also when Redis is out of memory
end
local receipt = token .. ' ' .. now_digits -- not the fence: a lock may have been held for long
local reply = {'clean'}
if state.destroyed then
  reply = {state.id == '-' and 'dead' or 'destroyed'}
elseif #ARGV >= FIRST then
  local refusal, version = commit_changes(FIRST, state, created, idle, absolute, now, {'#commit', receipt}, token)
  if refusal and refusal[1] == 'conflict' then
    return refusal
  end
  reply = refusal or {'saved', version}
end
if reply[1] ~= 'saved' then
  call('HSET', SESSION, '#commit', receipt)
  if not state.created then
    keep_mortal(SHELL_MS)
  end
end
keep_receipt(state.commit, token, now)
if state.created and call('EXISTS', QUEUE) == 1 then
  touch(tonumber(idle), refresh, now)
end
local _, _, handed = hand_over(nil, channel, push_limit, deaf, now, now_digits, state.fence, state.created)
reply[#reply + 1] = handed or ''
return reply
