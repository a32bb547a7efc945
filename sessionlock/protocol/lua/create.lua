-- Make a new record; an existing one (or a tombstone) is never overwritten. `op` makes repeating it known.
--
-- uses  base receipts ids commit
-- KEYS  lock queue waiters session receipts
-- ARGV  op idle_ms absolute_ms proof [op field value base]...
-- reply saved version {field value ...} | exists

local op, idle, absolute, proof = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST = 5
local state = read_state(FIRST)
if state.created and finished(op, state.commit) then
  return {'saved', state.version, call('HGETALL', SESSION)}
end
if state.created or state.destroyed or state.id then
  return {'exists'}
end
local now = server_time()
local receipt = op .. ' ' .. digits(now)
local refusal, version = commit_changes(FIRST, state, proof, idle, absolute, now, {'#commit', receipt})
if refusal then
  return {'exists'}
end
keep_receipt(state.commit, op, now)
return {'saved', version, call('HGETALL', SESSION)}
