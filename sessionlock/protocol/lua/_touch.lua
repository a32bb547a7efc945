-- Start the idle time of an existing record anew when less than refresh_ms is left, with refresh_ms = idle_ms in any
-- case; whether that was so. Data is not touched.
local function touch(idle_ms, refresh_ms, now)
  local left = call('PTTL', SESSION)
  if idle_ms <= 0 or left >= 0 and left >= refresh_ms and refresh_ms < idle_ms then
    return false
  end
  local expires = number_in(call('HGET', SESSION, '#expires'))
  if expires then
    idle_ms = math.min(idle_ms, math.floor((expires - now) / 1000))
  end
  call('PEXPIRE', SESSION, digits(math.max(idle_ms, 1)))
  return true
end
