-- Make a new record; an existing one (or a tombstone) is never overwritten. `op` makes repeating it known.
--
-- uses  base done ids life commit
-- KEYS  lock queue waiters session receipts
-- ARGV  op low proof life [change field value]...
-- reply saved version {field value ...} | exists | forgotten floor

local op, low, proof, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST = 5
local state = read_state(FIRST)
local answer = repeated(op, state[DONE])
if answer then
  return answer[1] == 'already' and state[CREATED] and {'saved', state[VERSION], call('HGETALL', SESSION)}
    or answer[1] == 'forgotten' and answer or {'exists'}
end
local taken = call('HMGET', SESSION, '#destroyed', '#id')
if state[CREATED] or taken[1] or taken[2] then
  return {'exists'}
end
local refusal, version = commit_changes(FIRST, state, proof, life, {'#done', finish(op, low, state[DONE])})
if refusal then
  return {'exists'}
end
return {'saved', version, call('HGETALL', SESSION)}
