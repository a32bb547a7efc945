-- Make a new record; an existing one (or a tombstone) is never overwritten. `op` makes repeating it known.
--
-- uses  base done ids life commit
-- KEYS  lock queue waiters session receipts
-- ARGV  op low proof life [change field value]...
-- reply saved version {field value ...} | exists | forgotten floor

local op, low, proof, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST = 5
local fields = read_state(FIRST)
local state = fields[STATE] or ''
local known = parts_of(state)
local exists = known.created or known.id
local answer = repeated(op, done_in(state))
if answer then
  return answer[1] == 'already' and known.created and {'saved', fields[VERSION], call('HGETALL', SESSION)}
    or answer[1] == 'forgotten' and answer or {'exists'}
end
if exists or call('HEXISTS', SESSION, '#destroyed') == 1 then
  return {'exists'}
end
answer = outlived(op, state, life)
if answer then
  return answer
end
local set = {'#state', with_finished(state, nil, op, low)}
local refusal, version = commit_changes(FIRST, fields, NONE, proof, life, set)
if refusal then
  return {'exists'}
end
return {'saved', version, call('HGETALL', SESSION)}
