-- Save without holding the lock: only if nobody changed what was read of these fields. A conflict tells the whole
-- current state, so that merging needs no second load. `op` names this call: repeating it is known, and it is never
-- carried out after it was answered with a conflict.
--
-- uses  base done ids life commit
-- KEYS  lock queue waiters session receipts
-- ARGV  op low proof created expected_version life [change field value]...
-- reply saved version created | already version created      version 0: the record was left empty and has ended
--       conflict version {field value ...} {field value ... of the whole record} | gone | destroyed | dead | unknown
--       missing | large | forgotten floor

local op, low, proof, created, expected, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST = 7
local state = read_state(FIRST)
local answer = repeated(op, state[DONE])
if answer and answer[1] == 'forgotten' then
  return answer
elseif answer and answer[2] ~= REFUSED then
  return {'already', state[VERSION] or '0', state[CREATED] or ''}
end
local refused = not_open(proof)
if refused == 'missing' and created == '' then
  end_record() -- its absolute end has come, and whoever commits has not seen it
  state = read_state(FIRST)
elseif refused then
  return {refused}
end
local refusal, version
if answer or expected ~= '' and expected ~= (state[VERSION] or '0') then
  refusal = {'conflict', state[VERSION] or '0', {}}
else
  local set = {'#done', finish(op, low, state[DONE])}
  refusal, version = commit_changes(FIRST, state, created ~= '' and created or proof, life, set)
end
if not refusal then
  return {'saved', version, state[CREATED] or ''}
end
if not answer and refusal[1] ~= 'gone' then
  call('HSET', SESSION, '#done', finish(op, low, state[DONE], REFUSED))
end
if refusal[1] == 'conflict' then
  refusal[4] = call('HGETALL', SESSION)
end
return refusal
