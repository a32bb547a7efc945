-- How long a record lives. `due` in #state says when that needs a look, so that most calls need none.

-- When the life of a record that lives so long needs a look: when it is to be touched; always, with refresh_ms = idle_ms.
local function due_in(life_ms, idle_ms, refresh_ms, now)
  return refresh_ms < idle_ms and digits(now + math.max(0, life_ms - refresh_ms) * 1000) or nil
end

-- Begin its idle time anew; returns when its life needs a look again. `expires`: its absolute end (us), or nil.
local function prolong(idle_ms, refresh_ms, now, expires)
  local life = idle_ms
  if expires then
    life = math.min(life, math.floor((expires - now) / 1000))
  end
  call('PEXPIRE', SESSION, whole(math.max(life, 1)))
  if call('EXISTS', RECEIPTS) == 1 then
    call('PEXPIRE', RECEIPTS, whole(math.max(life, 1)))
  end
  return due_in(life, idle_ms, refresh_ms, now)
end

-- Look after a record's life, if that is due; `last`: #state in parts, which this brings up to date. It is touched when less
-- than refresh_ms is left (with refresh_ms = idle_ms in any case). Returns nil: nothing changed; 'looked', 'touched', or
-- 'ended' when its absolute end has come, which does not depend on Redis' own clean-up. Who touches it in any case does not
-- ask whether that is due: another may have said so, who touches it less often.
local function look_after_life(last, idle_ms, refresh_ms, now)
  if last.due and tonumber(last.due) > now and (refresh_ms < idle_ms or idle_ms <= 0) then
    return nil
  end
  local expires = number_in(call('HGET', SESSION, '#expires'))
  if expires and expires <= now then
    end_record()
    last.id, last.created, last.due = nil, nil, nil
    return 'ended'
  elseif idle_ms <= 0 then
    return nil
  end
  local left = call('PTTL', SESSION)
  if left < refresh_ms or refresh_ms >= idle_ms then
    last.due = prolong(idle_ms, refresh_ms, now, expires)
    return 'touched'
  end
  last.due = due_in(left, idle_ms, refresh_ms, now)
  return 'looked'
end
