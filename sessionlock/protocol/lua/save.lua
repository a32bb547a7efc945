-- Save what changed and keep the lock. Fenced as release is; `op` names this call, so that repeating it is known.
--
-- uses  base receipts ids commit
-- KEYS  lock queue waiters session receipts
-- ARGV  token fence op created idle_ms absolute_ms [op field value base]...     created: the id's proof, if there was no record
-- reply saved version created
--       conflict version {field value ...} | gone | destroyed      nothing was changed
--       already version created                                    an earlier try of this very call did it
--       lost fence

local token, fence, op, created, idle, absolute = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST = 7

local state = read_state(FIRST)
if call('GET', LOCK) ~= token then
  if state.op == op then
    return {'already', state.version, state.created or ''}
  end
  return {state.destroyed and 'destroyed' or 'lost', state.fence or '0'}
end
if (number_in(state.fence) or 0) > tonumber(fence) then
  return {'lost', state.fence}
end
if state.destroyed then
  return {'destroyed'}
end
if state.op == op then
  return {'already', state.version, state.created}
end
local refusal, version = commit_changes(FIRST, state, created, idle, absolute, server_time(), {'#op', op})
return refusal or {'saved', version, state.created}
