-- A quorum of independent masters granted the lock to token; make it the holder here, where the session is, and load
-- the session. Here the order of holders is decided: `vector` has, for each master that granted, the counter of its
-- grant; the highest counter seen of each is kept in #vector. Whoever was granted the lock later has a higher one at
-- every master that voted for both, and two majorities share at least one. So a vector is older, and refused, unless a
-- majority of masters stands in it with a counter not below the one that was seen.
-- A holder whose lock has not ended here lost its majority: it is told, and its saves are refused from now on.
-- Repeating it (lost reply) returns the same grant.
--
-- uses  base done ids life queue
-- KEYS  lock queue waiters session receipts
-- ARGV  token ttl_ms vector majority who missing idle_ms refresh_ms proof      vector: "master:counter ..."
-- reply granted fence now_us {field value ...}
--       stale                          a later holder has been here; nothing was changed
--       destroyed | missing | dead | already value | forgotten floor

local token, ttl, vector, majority, who = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local missing, idle, refresh, proof = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]

local now, now_digits = server_time()
local held = call('GET', LOCK)
local whole, state = call('HGETALL', SESSION), {}
for i = 1, #whole, 2 do
  if string.byte(whole[i]) == 35 then
    state[whole[i]] = whole[i + 1]
  end
end

local last = parts_of(state['#state'])
if last.created and look_after_life(last, idle, refresh, now) == 'ended' then
  whole = {}
end

local function is_entered()
  return last.fence and string.sub(state['#holder'] or '', 1, #token + 1) == token .. ' '
end

if held == token and is_entered() then
  call('PEXPIRE', LOCK, ttl)
  return {'granted', last.fence, now_digits, whole}
end
local answer = repeated(token, last.done)
if answer then
  return answer
end
local refused = state['#destroyed'] and ended_word(state['#replaced'], state['#destroyed'], now)
  or not admitted(proof, last.id, state['#old'], now) and not_admitted(proof, state['#old'], now, 'missing')
  or missing == 'reject' and not last.created and 'missing'
if refused then
  return {refused}
end

-- Returns the highest counter of each master, as text; nil when ours is the older vector.
local function merged()
  local seen, names, not_below = {}, {}, 0
  for master, counter in string.gmatch(state['#vector'] or '', '(%S+):(%d+)') do
    names[#names + 1] = master
    seen[master] = counter
  end
  for master, counter in string.gmatch(vector, '(%S+):(%d+)') do
    local known = number_in(seen[master])
    if not seen[master] then
      names[#names + 1] = master
    end
    if not known or known <= tonumber(counter) then
      not_below = not_below + 1
      seen[master] = counter
    end
  end
  for i, master in ipairs(names) do
    names[i] = master .. ':' .. seen[master]
  end
  return not_below >= majority and table.concat(names, ' ') or nil
end

local highest = merged()
if not highest then
  return {'stale'}
end
local owner, where = string.match(state['#holder'] or '', '^(%S+) %S+ %d+ (%S+) ')
if held and held ~= token and owner == held then
  push(where, 'L ' .. held)
end
local fence = grant(token, ttl, 'held', who, now, now_digits, last)
call('HSET', SESSION, '#vector', highest)
return {'granted', fence, now_digits, whole}
