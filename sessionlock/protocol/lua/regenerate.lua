-- Give the session a new id: from now on only new_proof is admitted, and for grace_ms the ids that were valid till now.
-- The record, its lock and its queue stay where they are, so nothing is copied and no waiter loses its place.
--
-- uses  base ids
-- KEYS  lock queue waiters session receipts
-- ARGV  proof new_proof grace_ms token fence        (token '': without the lock)
-- reply regenerated | missing | dead | destroyed | lost fence

local REPEATED_WITHIN_US = 60000000 -- so long an id is remembered after its grace

local proof, new_proof, grace, token, fence = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local now = server_time()
local state = call('HMGET', SESSION, '#destroyed', '#created', '#id', '#old', '#fence')
if state[1] then
  return {'destroyed'}
end
-- The ids that were valid before, of which none outlives the grace that this call gives.
local function older_ids(except)
  local old = {}
  for other, deadline in string.gmatch(state[4] or '', '(%S+)@(%d+)') do
    if other ~= except and tonumber(deadline) > now - REPEATED_WITHIN_US then
      old[#old + 1] = other .. '@' .. digits(math.min(tonumber(deadline), now + grace * 1000))
    end
  end
  return old
end

if state[3] == new_proof then
  -- This very call, once more; or who has the newest id wants the older ones to end sooner.
  call('HSET', SESSION, '#old', table.concat(older_ids(), ' '))
  return {'regenerated'}
end
if string.find(' ' .. (state[4] or ''), ' ' .. new_proof .. '@', 1, true) then
  return {'regenerated'} -- this very call, once more, behind a later one
end
if token ~= '' and (call('GET', LOCK) ~= token or (number_in(state[5]) or 0) > tonumber(fence)) then
  return {'lost', state[5] or '0'}
end
if not admitted(proof, state[3], state[4], now) then
  return {'dead'}
end
if token == '' and not state[2] then
  return {'missing'}
end
local previous = state[3] or proof
local old = older_ids(previous)
old[#old + 1] = previous .. '@' .. digits(now + grace * 1000)
call('HSET', SESSION, '#id', new_proof, '#old', table.concat(old, ' '))
keep_mortal(SHELL_MS)
return {'regenerated'}
