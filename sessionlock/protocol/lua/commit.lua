-- Save without holding the lock: only if nobody changed what was read of these fields. A conflict tells the whole
-- current state, so that merging needs no second load. `op` names this call, so that repeating it is known.
--
-- uses  base receipts ids commit
-- KEYS  lock queue waiters session receipts
-- ARGV  op created expected_version idle_ms absolute_ms proof [op field value base]...
-- reply saved version created | already version created      version 0: the record was left empty and has ended
--       conflict version {field value ...} {field value ... of the whole record} | gone | destroyed | dead | unknown

local op, created, expected, idle, absolute, proof = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST = 7
local state = read_state(FIRST)
if finished(op, state.commit) then
  return {'already', state.version or '0', state.created or ''}
end
local now = server_time()
if state.destroyed then
  return {ended(state.id, state.destroyed, now)}
end
if not admitted(proof, state.id, state.old, now) then
  return {not_admitted(proof, state.old, now, 'unknown')}
end
if expected ~= '' and expected ~= (state.version or '0') then
  return {'conflict', state.version or '0', {}, call('HGETALL', SESSION)}
end
local receipt = {'#commit', op .. ' ' .. digits(now)}
local refusal, version = commit_changes(FIRST, state, created ~= '' and created or proof, idle, absolute, now, receipt)
if refusal then
  if refusal[1] == 'conflict' then
    refusal[4] = call('HGETALL', SESSION)
  end
  return refusal
end
keep_receipt(state.commit, op, now)
return {'saved', version, state.created or ''}
