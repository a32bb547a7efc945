-- May this id see the record? Its proof is the id's longer digest, behind 'p:' when the record's name was made of the
-- id, 's:' when regenerate() gave it out. Not admitted: an id that was replaced and whose grace is over, or that was
-- never given out; one that only happens to have the same (short) record name; where there is no record yet, an id that
-- regenerate() gave out, which never begins a session of its own.
local function admitted(proof, id, old, now)
  if not id then
    return string.sub(proof, 1, 2) == 'p:'
  end
  if id == proof then
    return true
  end
  for other, deadline in string.gmatch(old or '', '(%S+)@(%d+)') do
    if other == proof and tonumber(deadline) > now then
      return true
    end
  end
  return false
end

-- Whether an id is, or has ever been, one of this record's: for who holds the lock since before it was replaced.
local function belongs(proof, id, old)
  return id == proof or string.find(' ' .. (old or ''), ' ' .. proof .. '@', 1, true) ~= nil
end

-- What an id that is not admitted is told: 'dead' if it was replaced a moment ago, so that its request may have been under
-- way. A browser that comes with it later has never got the newer id, and is a stranger.
local RECENTLY_US = 15000000

local function not_admitted(proof, old, now, otherwise)
  for other, deadline in string.gmatch(old or '', '(%S+)@(%d+)') do
    if other == proof and tonumber(deadline) > now - RECENTLY_US then
      return 'dead'
    end
  end
  return otherwise
end

-- The same for a session that was destroyed; `replaced`: another took its place.
local function ended_word(replaced, destroyed, now)
  return replaced and (number_in(destroyed) or 0) > now - RECENTLY_US and 'dead' or 'destroyed'
end

-- Whether a record's absolute end has come, which does not depend on Redis' own clean-up.
local function is_over(expires, now)
  return expires and (number_in(expires) or 0) <= now
end

-- Why a call is refused before it looks at the record: nil, destroyed, dead, or unknown. Its absolute end has come:
-- missing. `proof` false: the lock was taken by an id, which need not be valid any more.
local function not_open(proof, whole_state)
  local state = call('HMGET', SESSION, '#destroyed', '#replaced', '#old', '#expires')
  local now, id = server_time(), parts_of(whole_state).id
  if state[1] then
    return ended_word(state[2], state[1], now)
  elseif proof and not admitted(proof, id, state[3], now) then
    return not_admitted(proof, state[3], now, 'unknown')
  elseif is_over(state[4], now) then
    return 'missing'
  end
end
