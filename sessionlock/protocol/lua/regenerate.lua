-- Give the session a new id: from now on only new_proof is admitted, and for grace_ms the ids that were valid till now.
-- The record, its lock and its queue stay where they are, so nothing is copied and no waiter loses its place.
-- Only the current id can be replaced: who stole an older one must not get a lasting one for it.
--
-- uses  base done ids
-- KEYS  lock queue waiters session receipts
-- ARGV  op low proof new_proof grace_ms token fence        (token '': without the lock)
-- reply regenerated | missing | dead | destroyed | lost fence | forgotten floor
--       already version value | untold        as of release

local op, low, proof, new_proof, grace = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local token, fence = ARGV[6], ARGV[7]
local MOST_OLD = 8
local now = server_time()
local state = call('HMGET', SESSION, '#destroyed', '#old', '#state', '#expires')
local last = parts_of(state[3])
local answer = repeated(op, last.done)
if answer then
  return answer[1] == 'already' and {'regenerated'} or answer
end
if state[1] then
  return {'destroyed'}
end
if token ~= '' then
  if call('GET', LOCK) ~= token then
    return not_holder(fence, op)
  elseif (number_in(last.fence) or 0) > tonumber(fence) then
    return {'lost', last.fence}
  end
end
local previous = last.id or proof
if previous ~= proof or not admitted(proof, last.id, state[2], now) then
  return {'dead'}
end
if token == '' and not last.created or is_over(state[4], now) then
  return {'missing'}
end
-- The ids that were valid before, of which none outlives the grace that this call gives: who keeps its id only wants that.
-- Who comes with one that ended a moment ago is told so, hence it stays for as long.
local old = {previous ~= new_proof and previous .. '@' .. digits(now + grace * 1000) or nil}
for other, deadline in string.gmatch(state[2] or '', '(%S+)@(%d+)') do
  if #old < MOST_OLD and other ~= previous and other ~= new_proof and tonumber(deadline) > now - RECENTLY_US then
    old[#old + 1] = other .. '@' .. digits(math.min(tonumber(deadline), now + grace * 1000))
  end
end
last.id, last.done = new_proof, finish(op, low, last.done)
call('HSET', SESSION, '#state', joined(last), '#old', table.concat(old, ' '))
if not last.created then
  keep_mortal(SHELL_MS)
end
return {'regenerated'}
