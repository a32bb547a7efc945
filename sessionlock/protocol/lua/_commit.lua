-- Changes stand in ARGV from `first` on, three words each: kind and base, field, value. The kinds:
--   s  set to value      d  delete      i  add the integer value
--   c  only compare      n  only compare how many fields of the application's there are with value (field #keys)
--   f  only if nobody holds the lock (field #keys)
--   x  only before the record's absolute end (field #expires)
--   e  end the record if nothing of the application's is left in it and nobody else holds or waits for the lock
-- Of many changes there is one word instead: for each "<length> <length> <length>:" and the three words.
-- The base says what was read: '' nothing, '=bytes' exactly these, '#sha1' bytes of this SHA-1, '*' does not matter.

local AT_ONCE = 1000 -- fields per command; Lua's stack is limited
local SET, DELETE, ADD, COUNT, FREE, ENDS, BEFORE = 115, 100, 105, 110, 102, 101, 120 -- bytes of the kinds
local EQUALS, HASHED, ANY = 61, 35, 42 -- and of the bases

-- How many fields are the application's.
local function own_fields()
  local count = 0
  for _, field in ipairs(call('HKEYS', SESSION)) do
    if is_own(field) then
      count = count + 1
    end
  end
  return count
end

-- One word with all changes becomes three words for each.
local function unpack_changes(first)
  local packed, at, n = ARGV[first], 1, first
  while at <= #packed do
    local _, head, kind, field, value = string.find(packed, '^(%d+) (%d+) (%d+):', at)
    kind = head + kind
    field = kind + field
    at = field + value + 1
    ARGV[n], ARGV[n + 1] = string.sub(packed, head + 1, kind), string.sub(packed, kind + 1, field)
    ARGV[n + 2] = string.sub(packed, field + 1, at - 1)
    n = n + 3
  end
end

-- What every commit looks at: the reserved fields by these places, and behind them the fields that are to be changed.
local STATE, VERSION, RESERVED = 1, 2, 2

local function read_state(first)
  local count = #ARGV
  if count < first then
    return call('HMGET', SESSION, '#state', '#version')
  elseif count == first + 2 then
    return call('HMGET', SESSION, '#state', '#version', ARGV[count - 1])
  end
  if count == first then
    unpack_changes(first)
    count = #ARGV
  end
  local names = {'#state', '#version'}
  for i = first + 1, count, 3 do
    names[#names + 1] = ARGV[i]
  end
  if #names <= AT_ONCE then
    return call('HMGET', SESSION, unpack(names))
  end
  local values = {}
  for start = 1, #names, AT_ONCE do
    local part = call('HMGET', SESSION, unpack(names, start, math.min(start + AT_ONCE - 1, #names)))
    for i = 1, #part do
      values[start + i - 1] = part[i]
    end
  end
  return values
end

-- Whether the field is as it was read.
local function unchanged(current, change)
  local base = string.byte(change, 2)
  if not current then
    return not base or base == ANY
  elseif base == EQUALS then
    return string.sub(change, 3) == current
  end
  return base == ANY or base == HASHED and string.sub(change, 3) == redis.sha1hex(current)
end

local function clashes(kind, change, current, value)
  if kind == COUNT then
    return own_fields() ~= tonumber(value)
  elseif kind == FREE then
    return call('EXISTS', LOCK) == 1
  elseif kind == ADD then
    return current and not string.match(current, '^-?%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$')
  end
  return not unchanged(current, change)
end

local function write(command, words)
  for start = 1, #words, AT_ONCE do
    call(command, SESSION, unpack(words, start, math.min(start + AT_ONCE - 1, #words)))
  end
end

-- The record is empty: it ends, unless somebody (other than `token`) holds the lock or waits for it, whose work would
-- then be refused.
local function end_if_empty(token)
  local holder = call('GET', LOCK)
  if holder and holder ~= token or call('EXISTS', QUEUE) == 1 or own_fields() > 0 then
    return false
  end
  end_record()
  return true
end

local NO_STAMP = '----------------' -- of a record that was not there when it was loaded

-- What was loaded, as a call names it: a record's stamp, or where there was none, the proof of the id for a new one.
local function as_loaded(word)
  if string.find(word, '^%d+$') then
    return word, nil
  end
  return NONE, word
end

-- Whether a change by which the record grows makes it too large. `measured`: the version of which the client has found out
-- that it does not; others may have changed it since, or it has not looked.
local function too_large(packed_life, from, version, grown)
  local limit, measured = string.match(packed_life, '^%d+ %d+ %d+ (%d+) (%S+)', from)
  if measured == (version or '0') then
    return false
  end
  local size = grown
  for _, field in ipairs(call('HKEYS', SESSION)) do
    if is_own(field) then
      size = size + #field + call('HSTRLEN', SESSION, field)
    end
  end
  return size > tonumber(limit)
end

-- "idle_ms absolute_ms refresh_ms limit_bytes measured", `from` a place on
local function life_of(packed, from)
  local idle, absolute, refresh = string.match(packed, '^(%d+) (%d+) (%d+)', from)
  return tonumber(idle), tonumber(absolute), tonumber(refresh)
end

-- A new record begins: its reserved fields join `set`, of which the first is #state; returns when it begins, and its life
-- in ms. `proof`: of the id that it is for.
local function begin_record(set, proof, packed_life, from)
  local idle_ms, absolute_ms, refresh_ms = life_of(packed_life, from)
  local now, now_digits = server_time()
  local life, parts = idle_ms, parts_of(set[2])
  if absolute_ms > 0 then
    set[#set + 1] = '#expires'
    set[#set + 1] = digits(now + absolute_ms * 1000)
    life = math.min(life, absolute_ms)
  end
  parts.created, parts.id = now_digits, parts.id or proof
  parts.due = not parts.queued and due_in(life, idle_ms, refresh_ms, now) or nil
  set[2] = joined(parts)
  return now_digits, life
end

-- Bring the changes into the record, with `set`, #state and its new value. `created`: the stamp of the record that was
-- loaded, NONE where there was none; then `proof` is that of the id that the new one is for; nil: it is known to be this
-- record. `packed_life` stands in its word `from` a place on, nil: from its beginning. Returns a refusal (nothing was
-- changed), or nil, the new version, '0' if the record has ended because it was left empty (`token` is its holder's), and
-- when the record came to be.
local function commit_changes(first, fields, created, proof, packed_life, set, token, from)
  local found, state = nil, fields[STATE] or ''
  local stamp = created and string.sub(state, 17, 32)
  if created == NONE then
    local id = parts_of(state).id
    if id and not belongs(proof, id, call('HGET', SESSION, '#old')) then
      return {'gone'} -- meanwhile the record of another session came to be, which has the same name
    end
  elseif stamp ~= created then
    return {'gone'} -- a delta must not revive part of a record that expired or was replaced
  end
  local delete, adds, ends, at, size, grown = nil, nil, false, RESERVED, #set, 0
  for i = first, #ARGV, 3 do
    local change, field, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local kind, base = string.byte(change, 1, 2)
    at = at + 1
    local current = fields[at]
    local as_read = kind == SET and base == EQUALS and string.sub(change, 3) == current -- mostly
    if not as_read and clashes(kind, change, current, value) then
      found = found or {}
      found[#found + 1] = field
      found[#found + 1] = current
    elseif kind == SET then
      grown = grown + #value + (current and -#current or #field)
      set[size + 1], set[size + 2] = field, value
      size = size + 2
    elseif kind == DELETE then
      grown = grown - (current and #current + #field or 0)
      delete = delete or {}
      delete[#delete + 1] = field
    elseif kind == ADD then
      local sum = whole((tonumber(current or '0') or 0) + value)
      grown = grown + #sum + (current and -#current or #field)
      adds = adds or {}
      adds[#adds + 1] = {field, value}
    elseif kind == ENDS then
      ends = true
    elseif kind == BEFORE and is_over(current, server_time()) then
      return {'gone'}
    end
  end
  if found then
    return {'conflict', fields[VERSION] or '0', found}
  elseif grown > 0 and too_large(packed_life, from, fields[VERSION], grown) then
    return {'large'}
  end
  local version, life = (number_in(fields[VERSION]) or 0) + 1 .. '', nil
  set[size + 1], set[size + 2] = '#version', version
  if stamp == NONE or stamp == '' then
    stamp, life = begin_record(set, proof, packed_life, from)
  end
  if #set <= AT_ONCE then
    call('HSET', SESSION, unpack(set))
  else
    write('HSET', set)
  end
  if delete then
    write('HDEL', delete)
  end
  if adds then
    for _, add in ipairs(adds) do
      call('HINCRBY', SESSION, add[1], add[2])
    end
  end
  if life then
    call('PEXPIRE', SESSION, whole(math.max(life, 1)))
  end
  if ends and end_if_empty(token) then
    return nil, '0', ''
  end
  return nil, version, stamp
end
