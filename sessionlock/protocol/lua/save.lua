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
local state = read_state(FIRST)
local answer = repeated(op, state[DONE])
if answer and answer[2] == REFUSED then
  return {'conflict', state[VERSION] or '0', {}}
elseif answer then
  return answer[1] == 'already' and {'already', state[VERSION] or '0', state[CREATED] or ''} or answer
end
if state[FENCE] ~= fence then
  return (number_in(state[FENCE]) or 0) > tonumber(fence) and {'lost', state[FENCE]} or {'gone'}
end
local refused = not_open(false)
if refused then
  return {refused}
end
local refusal, version = commit_changes(FIRST, state, created, life, {'#done', finish(op, low, state[DONE])}, token)
if refusal and refusal[1] ~= 'gone' then
  call('HSET', SESSION, '#done', finish(op, low, state[DONE], REFUSED))
end
return refusal or {'saved', version, state[CREATED] or ''}
