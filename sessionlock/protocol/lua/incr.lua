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
local fields = read_state(FIRST)
local state = fields[STATE] or ''
local answer = repeated(op, done_in(state))
if answer then
  return answer[1] == 'already' and {'already', fields[VERSION] or '0', parts_of(state).created or '', answer[2]} or answer
end
if token ~= '' then
  local current = string.sub(state, 1, 16)
  if call('GET', LOCK) ~= token then
    return not_holder(fence, op)
  elseif current ~= fence then
    return current > fence and {'lost', current} or {'gone'}
  end
end
local refused = not_open(token == '' and proof, state)
if refused == 'missing' and token == '' and created == 'new' then
  end_record() -- its absolute end has come
  fields = read_state(FIRST)
  state = fields[STATE] or ''
elseif refused then
  return {refused}
elseif token == '' and created ~= 'new' and not parts_of(state).created then
  return {'missing'}
end
local late = created == 'new' and outlived(op, state, life)
if late then
  return late
end
local stamp = created
if created == 'new' or created == '' then
  stamp = NONE
end
local before = tonumber(fields[RESERVED + 1] or '0')
-- What it comes to, unless the field is not an integer.
local value = before and whole(before + ARGV[FIRST + 2])
local set = {'#state', with_finished(state, nil, op, low, value)}
local refusal, version, begun = commit_changes(FIRST, fields, stamp, proof, life, set, token)
return refusal or {'saved', version, begun, call('HGET', SESSION, field)}
