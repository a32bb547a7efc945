-- Changes stand in ARGV from `first` on, four words each: op field value base.
--   s  set to value      d  delete      i  add the integer value
--   c  only compare      n  only compare how many fields of the application's there are with value (field #keys)
--   f  only if nobody holds the lock (field #keys)
--   e  end the record if nothing of the application's is left in it and nobody else holds or waits for the lock
-- base says what was read: '' nothing, '=bytes' exactly these, '#sha1' bytes of this SHA-1, '*' does not matter.

local AT_ONCE = 1000 -- fields per command; Lua's stack is limited

local function unchanged(current, base)
  if not current then
    return base == ''
  end
  local kind = string.sub(base, 1, 1)
  if kind == '=' then
    return string.sub(base, 2) == current
  end
  return kind == '#' and string.sub(base, 2) == redis.sha1hex(current)
end

-- How many fields are the application's.
local function own_fields()
  local count = 0
  for _, field in ipairs(call('HKEYS', SESSION)) do
    if string.byte(field) ~= 35 or string.byte(field, 2) == 35 then
      count = count + 1
    end
  end
  return count
end

local function read_state(first)
  local names = {'#fence', '#destroyed', '#commit', '#created', '#version', '#op', '#id', '#old'}
  local values = {}
  for i = first + 1, #ARGV, 4 do
    names[#names + 1] = ARGV[i]
  end
  for start = 1, #names, AT_ONCE do
    local part = call('HMGET', SESSION, unpack(names, start, math.min(start + AT_ONCE - 1, #names)))
    for i = 1, #part do
      values[start + i - 1] = part[i]
    end
  end
  return {
    fence = values[1], destroyed = values[2], commit = values[3], created = values[4], version = values[5],
    op = values[6], id = values[7], old = values[8], fields = values, first_field = 9,
  }
end

-- Returns nil, or {field, current value, ...} of what somebody else changed meanwhile.
local function conflicts(first, state)
  local found = nil
  local at = state.first_field
  for i = first, #ARGV, 4 do
    local current, base = state.fields[at], ARGV[i + 3]
    local clash = base ~= '*' and not unchanged(current, base)
    if ARGV[i] == 'n' then
      clash = own_fields() ~= tonumber(ARGV[i + 2])
    elseif ARGV[i] == 'f' then
      clash = call('EXISTS', LOCK) == 1
    elseif ARGV[i] == 'i' then
      clash = current and not string.match(current, '^-?%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$')
    end
    if clash then
      found = found or {}
      found[#found + 1] = ARGV[i + 1]
      found[#found + 1] = current
    end
    at = at + 1
  end
  return found
end

local function write(command, words)
  for start = 1, #words, AT_ONCE do
    call(command, SESSION, unpack(words, start, math.min(start + AT_ONCE - 1, #words)))
  end
end

-- The record is empty: it ends, unless somebody (other than `token`) holds the lock or waits for it, whose work would
-- then be refused. What is left is a shell that remembers fence and receipt for a while.
local function end_if_empty(token, state)
  local holder = call('GET', LOCK)
  if holder and holder ~= token or call('EXISTS', QUEUE) == 1 or own_fields() > 0 then
    return false
  end
  call('HDEL', SESSION, '#created', '#version', '#expires', '#user', '#indexed', '#id', '#old', '#op')
  call('PEXPIRE', SESSION, SHELL_MS)
  state.created = false
  return true
end

-- Bring the changes into the record, with `also`, further reserved fields; `created` is the stamp of the record that
-- was loaded, or where there was none, the proof of the id that the new one is for. Returns a refusal (nothing was
-- changed), or nil and the new version: '0' if the record has ended, because it was left empty (`token` is its
-- holder's).
local function commit_changes(first, state, created, idle_ms, absolute_ms, now, also, token)
  if state.created ~= created then
    if string.find(created, '^%d') then
      return {'gone'} -- a delta must not revive part of a record that expired or was replaced
    elseif state.id and not belongs(created, state.id, state.old) then
      return {'gone'} -- meanwhile the record of another session came to be, which has the same name
    end
  end
  local clash = conflicts(first, state)
  if clash then
    return {'conflict', state.version or '0', clash}
  end
  local version = digits((number_in(state.version) or 0) + 1)
  local set, delete, ends = also, {}, false
  set[#set + 1] = '#version'
  set[#set + 1] = version
  for i = first, #ARGV, 4 do
    local op, field = ARGV[i], ARGV[i + 1]
    if op == 's' then
      set[#set + 1] = field
      set[#set + 1] = ARGV[i + 2]
    elseif op == 'd' then
      delete[#delete + 1] = field
    elseif op == 'i' then
      call('HINCRBY', SESSION, field, ARGV[i + 2])
    elseif op == 'e' then
      ends = true
    end
  end
  local life = nil
  if not state.created then
    life = tonumber(idle_ms)
    state.created = digits(now)
    set[#set + 1] = '#created'
    set[#set + 1] = state.created
    if not state.id then
      set[#set + 1] = '#id'
      set[#set + 1] = created
    end
    if tonumber(absolute_ms) > 0 then
      set[#set + 1] = '#expires'
      set[#set + 1] = digits(now + absolute_ms * 1000)
      life = math.min(life, tonumber(absolute_ms))
    end
  end
  write('HSET', set)
  write('HDEL', delete)
  if life then
    call('PEXPIRE', SESSION, digits(life))
  end
  if ends and end_if_empty(token, state) then
    version = '0'
  end
  return nil, version
end
