-- How long a record lives. #due says when that needs a look, so that most calls need none.

-- Begin its idle time anew. `expires`: its absolute end (us), or nil.
local function prolong(idle_ms, refresh_ms, now, expires)
  local life = idle_ms
  if expires then
    life = math.min(life, math.floor((expires - now) / 1000))
  end
  local due = refresh_ms < idle_ms and now + math.max(0, life - refresh_ms) * 1000 or 0
  call('PEXPIRE', SESSION, digits(math.max(life, 1)))
  if call('EXISTS', RECEIPTS) == 1 then
    call('PEXPIRE', RECEIPTS, digits(math.max(life, 1)))
  end
  call('HSET', SESSION, '#due', digits(due))
end

-- A record whose #due has come: it is touched when less than refresh_ms is left (with refresh_ms = idle_ms in any case).
-- Returns 'ended' when its absolute end has come, which does not depend on Redis' own clean-up; 'touched'; or nil.
local function look_after_life(idle_ms, refresh_ms, now)
  local state = call('HMGET', SESSION, '#expires', '#due')
  local expires, due = number_in(state[1]), number_in(state[2])
  if expires and expires <= now then
    end_record()
    return 'ended'
  elseif idle_ms <= 0 or due and due > now then
    return nil
  end
  local left = call('PTTL', SESSION)
  if left < refresh_ms or refresh_ms >= idle_ms then
    prolong(idle_ms, refresh_ms, now, expires)
    return 'touched'
  end
  call('HSET', SESSION, '#due', digits(now + (left - refresh_ms) * 1000))
end
