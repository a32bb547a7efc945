-- Add to an integer field, atomically: under the lock (token, fenced) or without it (token '').
--
-- uses  base done ids life commit
-- KEYS  lock queue waiters session receipts
-- ARGV  op low token fence created proof life [change field value]...     one change, an increment
--       (created 'new': there was no record, and one may be made)
-- reply saved version created value | already version created value
--       conflict version {field value}        the field is not an integer (of at most 15 digits)
--       gone | destroyed | missing | dead | unknown | large | lost fence | untold | forgotten floor

local op, low, token, fence, created, proof, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local FIRST = 8
local field = ARGV[FIRST + 1]
local state = read_state(FIRST)
local answer = repeated(op, state[DONE])
if answer then
  return answer[1] == 'already' and {'already', state[VERSION] or '0', state[CREATED] or '', answer[2]} or answer
end
if token ~= '' then
  if call('GET', LOCK) ~= token then
    return not_holder(fence, op)
  elseif state[FENCE] ~= fence then
    return (number_in(state[FENCE]) or 0) > tonumber(fence) and {'lost', state[FENCE]} or {'gone'}
  end
end
local refused = not_open(token == '' and proof)
if refused == 'missing' and token == '' and created == 'new' then
  end_record() -- its absolute end has come
  state = read_state(FIRST)
elseif refused then
  return {refused}
elseif token == '' and not state[CREATED] and created ~= 'new' then
  return {'missing'}
end
if created == 'new' or created == '' then
  created = proof
end
local before = tonumber(state[RESERVED + 1] or '0')
local value = before and digits(before + ARGV[FIRST + 2]) -- what it comes to, unless the field is not an integer
local refusal, version = commit_changes(FIRST, state, created, life, {'#done', finish(op, low, state[DONE], value)}, token)
return refusal or {'saved', version, state[CREATED], call('HGET', SESSION, field)}
