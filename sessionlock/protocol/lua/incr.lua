-- Add to an integer field, atomically: under the lock (token, fenced) or without it (token '').
--
-- uses  base receipts ids commit
-- KEYS  lock queue waiters session receipts
-- ARGV  op token fence created idle_ms absolute_ms proof [op field value base]...     one change, an increment
--       (created 'new': there was no record, and one may be made)
-- reply saved version created value | already version created value
--       conflict version {field value}        the field is not an integer (of at most 15 digits)
--       gone | destroyed | missing | dead | unknown | lost fence

local op, token, fence, created, idle, absolute = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local proof = ARGV[7]
local FIRST = 8
local field = ARGV[FIRST + 1]
local state = read_state(FIRST)
if finished(op, state.commit) then
  return {'already', state.version or '0', state.created or '', call('HGET', SESSION, field) or '0'}
end
local now = server_time()
if state.destroyed then
  return {'destroyed'}
end
if token ~= '' then
  if call('GET', LOCK) ~= token or (number_in(state.fence) or 0) > tonumber(fence) then
    return {'lost', state.fence or '0'}
  end
elseif not admitted(proof, state.id, state.old, now) then
  return {not_admitted(proof, state.old, now, 'unknown')}
elseif not state.created and created ~= 'new' then
  return {'missing'}
end
if created == 'new' or created == '' then
  created = proof
end
local receipt = {'#commit', op .. ' ' .. digits(now)}
local refusal, version = commit_changes(FIRST, state, created, idle, absolute, now, receipt)
if refusal then
  return refusal
end
keep_receipt(state.commit, op, now)
return {'saved', version, state.created, call('HGET', SESSION, field)}
