-- Save what changed and keep the lock. Fenced as release is; `op` names this call, so that repeating it is known.
--
-- uses  base done ids life commit
-- KEYS  lock queue waiters session receipts
-- ARGV  op low token fence created life [change field value]...     created: the id's proof, if there was no record
-- reply saved version created
--       conflict version {field value ...} | gone | destroyed | dead | missing | large      nothing was changed
--       already version created                                    an earlier try of this very call did it
--       lost fence | untold | forgotten floor

local op, low, token, fence, created, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST = 7

if call('GET', LOCK) ~= token then
  return not_holder(fence, op)
end
local fields = read_state(FIRST)
local state = fields[STATE] or ''
local answer = repeated(op, done_in(state))
if answer and answer[2] == REFUSED then
  return {'conflict', fields[VERSION] or '0', {}}
elseif answer then
  return answer[1] == 'already' and {'already', fields[VERSION] or '0', parts_of(state).created or ''} or answer
end
local current = string.sub(state, 1, 16)
if current ~= fence then
  return current > fence and {'lost', current} or {'gone'}
end
local stamp, proof = as_loaded(created)
local refused = not_open(false, state)
if refused then
  return {refused}
end
local set = {'#state', with_finished(state, fence, op, low)}
local refusal, version, begun = commit_changes(FIRST, fields, stamp, proof, life, set, token)
if refusal and refusal[1] ~= 'gone' then
  call('HSET', SESSION, '#state', with_finished(state, fence, op, low, REFUSED))
end
return refusal or {'saved', version, begun}
