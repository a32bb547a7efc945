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
local fields = read_state(FIRST)
local state = fields[STATE] or ''
local answer = repeated(op, done_in(state))
if answer and answer[1] == 'forgotten' then
  return answer
elseif answer and answer[2] ~= REFUSED then
  return {'already', fields[VERSION] or '0', parts_of(state).created or ''}
end
local refused = not_open(proof, state)
if refused == 'missing' and created == '' then
  end_record() -- its absolute end has come, and whoever commits has not seen it
  fields = read_state(FIRST)
  state = fields[STATE] or ''
elseif refused then
  return {refused}
end
local late = created == '' and not answer and outlived(op, state, life)
if late then
  return late
end
local refusal, version, begun
if answer or expected ~= '' and expected ~= (fields[VERSION] or '0') then
  refusal = {'conflict', fields[VERSION] or '0', {}}
else
  local set = {'#state', with_finished(state, nil, op, low)}
  refusal, version, begun = commit_changes(FIRST, fields, created ~= '' and created or NONE, proof, life, set)
end
if not refusal then
  return {'saved', version, begun}
end
if not answer and refusal[1] ~= 'gone' then
  call('HSET', SESSION, '#state', with_finished(state, nil, op, low, REFUSED))
end
if refusal[1] == 'conflict' then
  refusal[4] = call('HGETALL', SESSION)
end
return refusal
