-- Completion records: what has finished changes nothing when it is asked for again, however late that is.
--
-- Every client numbers its calls. An `op` is the client's name (12 characters) and the number (16 digits); a token is an
-- op with something random behind it. With each call comes `low`: all calls of that client about this session with a
-- smaller number have been answered. A record is `<name><last><low>{ <number>[=value]}`: the name, the number that
-- finished last, low; and the other numbers from low on that finished, and what they came to, if that matters. So what is
-- kept is bounded by what is outstanding, and no clock decides. After RIFL (Lee et al., SOSP 2015).
--
-- The record of whoever finished something last is at the end of #state; others' are in `receipts`, by name. Where those
-- become too many, the half with the smallest numbers is dropped, and #floor has the highest number that was in it: who
-- comes with a lower one and is not known may have been here before. Should `receipts` be lost as a whole, #away counts as
-- the floor, the highest number that was ever put there. A record that is made anew remembers the floor: ` <floor>=?`.

local MOST_CLIENTS = 256
-- What a call may have come to, beside what it returns: it was refused and is never to be carried out; it came too late.
local REFUSED, LOST, UNCERTAIN = '!', '-', '?'

-- What is known of the client of this op, or nil; then what its number must exceed, if anything.
local function record_of(op, done)
  local name = string.sub(op, 1, 12)
  if string.sub(done, 1, 12) == name then
    return done
  end
  local rest = call('HGET', RECEIPTS, name)
  if rest then
    return name .. rest
  end
  local floors = call('HMGET', SESSION, '#floor', '#away')
  if floors[2] and call('EXISTS', RECEIPTS) == 0 then
    return nil, floors[2]
  end
  return nil, floors[1]
end

-- Why an op must not be carried out: nil, {'already', what it came to, '' when that says nothing}, or {'forgotten', floor}:
-- it may have been.
local function repeated(op, done)
  if not done then
    return nil
  end
  local number, record, floor = string.sub(op, 13, 28), record_of(op, done)
  if record then
    if number < string.sub(record, 29, 44) then
      return {'already', ''}
    end
    local from, to = string.find(record, ' ' .. number, 45, true)
    local value = from and string.match(record, '^=(%S*)', to + 1) or ''
    if from and value ~= UNCERTAIN then
      return {'already', value}
    elseif number == string.sub(record, 13, 28) then
      return {'already', ''}
    end
    floor = #record > 44 and string.match(record, ' (%d+)=%?', 45)
  end
  if floor and number <= floor then
    return {'forgotten', floor}
  end
end

-- A call that may begin a session has a number that is no lower than the server's clock was, if its client knew that. What a
-- record knew is gone with it, at the earliest when its life is over, or a shell's: nobody can tell any more whether a call
-- that is older than half of that, and than the record that is there now, was carried out. Lower numbers tell no time.
local FIRST_TIME = '0001000000000000'

local function outlived(op, state, packed_life)
  local number, created = string.sub(op, 13, 28), parts_of(state).created
  if number < FIRST_TIME or created and created <= number then
    return nil
  end
  local idle, absolute = string.match(packed_life, '^(%d+) (%d+)')
  local life = math.min(SHELL_MS, tonumber(idle), absolute == '0' and SHELL_MS or tonumber(absolute))
  local now = server_time()
  return tonumber(number) < now - life * 500 and {'forgotten', digits(now)} or nil
end

-- The record at the end of #state.
local function done_in(state)
  return #state >= DONE_AT and string.sub(state, DONE_AT) or nil
end

-- Too many clients: forget the half that was here longest ago.
local function drop_records()
  local all, records = call('HGETALL', RECEIPTS), {}
  for i = 1, #all, 2 do
    local highest = string.sub(all[i + 1], 1, 16)
    for number in string.gmatch(all[i + 1], ' (%d+)') do
      highest = number > highest and number or highest
    end
    records[#records + 1] = {highest, all[i]}
  end
  table.sort(records, function(one, other) return one[1] < other[1] end)
  local floor = call('HGET', SESSION, '#floor') or ''
  for i = 1, #records - MOST_CLIENTS / 2 do
    call('HDEL', RECEIPTS, records[i][2])
    floor = records[i][1] > floor and records[i][1] or floor
  end
  call('HSET', SESSION, '#floor', floor)
end

local function put_away(record)
  local last, away = string.sub(record, 13, 28), call('HGET', SESSION, '#away')
  if not away or away < last then
    call('HSET', SESSION, '#away', last)
  end
  call('HSET', RECEIPTS, string.sub(record, 1, 12), string.sub(record, 13))
  if call('HLEN', RECEIPTS) > MOST_CLIENTS then
    drop_records()
  end
  local left = call('PTTL', SESSION)
  call('PEXPIRE', RECEIPTS, left > 0 and whole(left) or SHELL_MS)
end

-- The op finishes, and came to `value` (or nil): its record, which #state has from now on.
local function finish(op, low, done, value)
  local name = string.sub(op, 1, 12)
  local record = done
  if done and string.sub(done, 1, 12) ~= name then
    put_away(done)
    local rest = call('HGET', RECEIPTS, name)
    record = rest and name .. rest -- it stays there, too, for the caller may still refuse
  end
  local number, kept = string.sub(op, 13, 28), {}
  if done and not record then
    local _, floor = record_of(op, done)
    kept[1] = floor and floor >= low and ' ' .. floor .. '=' .. UNCERTAIN or nil
  elseif record then
    local last, known = string.sub(record, 13, 28), string.sub(record, 29, 44)
    if number < known then
      return record -- a call that was held up, and whose caller has gone on
    end
    low = known > low and known or low
    if last >= low and last ~= number and not string.find(record, ' ' .. last, 45, true) then
      kept[1] = ' ' .. last
    end
    for other, came_to in string.gmatch(string.sub(record, 45), ' (%d+)(%S*)') do
      if other >= low and other ~= number then
        kept[#kept + 1] = ' ' .. other .. came_to
      end
    end
  end
  if value then
    kept[#kept + 1] = ' ' .. number .. '=' .. value
  end
  return name .. number .. (low < number and low or number) .. table.concat(kept)
end

-- #state with another record.
local function with_done(state, fence, done)
  if #state < DONE_AT - 1 then
    return joined({fence = fence, done = done})
  end
  return string.sub(state, 1, DONE_AT - 1) .. done
end

-- #state when the op has finished.
local function with_finished(state, fence, op, low, value)
  -- Mostly the one before was the same client's, and has been answered.
  if #state == DONE_AT + 43 and not value and string.find(state, string.sub(op, 1, 12), DONE_AT, true) == DONE_AT
      and string.sub(state, DONE_AT + 12, DONE_AT + 27) < low then
    return string.sub(state, 1, DONE_AT - 1) .. string.sub(op, 1, 28) .. low
  end
  return with_done(state, fence, finish(op, low, done_in(state), value))
end

-- Why a call that needs the lock is refused. `untold`: what would tell whether it was done is gone.
local function not_holder(fence, op)
  local state = call('HMGET', SESSION, '#state', '#version', '#destroyed')
  local last = parts_of(state[1])
  local current, answer = last.fence, repeated(op, last.done)
  if answer and answer[1] == 'already' and answer[2] ~= LOST then
    return {'already', state[2] or '0', answer[2]}
  elseif state[3] then
    return {'destroyed'}
  elseif not answer and (number_in(current) or 0) < tonumber(fence) or answer and answer[1] == 'forgotten' then
    return {'untold'}
  end
  return {'lost', current or '0'}
end
