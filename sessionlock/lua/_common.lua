-- Shared by every script that works on one session; put in front of its text when it is loaded.
-- All keys are declared: KEYS  lock queue waiters session receipts
--
-- lock      string  the holder's token, PX = lease
-- queue     zset    waiting tokens; score = ticket, a number that grows in the order of arrival
-- waiters   hash    token -> "deadline_us ttl_ms claim_ms channel label"
-- session   hash    one field per session key, and reserved fields:
--                     #fence    highest fencing token granted          #version  number of commits
--                     #created  when the record came to be (us)        #expires  absolute end (us)
--                     #holder   "token state since_us channel label", state = held | claim
--                     #commit   "token fence": the acquisition that finished last
--                     #op       the immediate save or commit applied last
--                     #destroyed  tombstone
--                     #id       proof of the id that is valid now, when it was regenerated
--                     #old      "proof@until_us ...": ids that were valid before, in their grace
--                     #user     digest of the user, for the index of a user's sessions
--                     #indexed  when it was last entered there (us)
-- receipts  zset    acquisitions that finished shortly before that one; score = fence
--
-- Numbers up to 2^53 are exact in Lua's doubles but print as 1.7e+15: they leave through digits() only.

local LOCK, QUEUE, WAITERS, SESSION, RECEIPTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local LARGEST = 9007199254740991
local SHELL_MS = 60000 -- a record that holds nothing but a fence
local RECEIPT_MS = 60000 -- longer than any client repeats a call whose reply was lost
local MOST_RECEIPTS = 4096

local function digits(number)
  return string.format('%.0f', number)
end

local function server_time()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Fences and tickets grow even when their last value was lost: no less than the server's microseconds.
local function next_number(last, now, what)
  local number = math.max((tonumber(last) or 0) + 1, now)
  if number >= LARGEST then
    return error(what .. 'EXHAUSTED the ' .. what .. ' of this session has reached 2^53')
  end
  return number
end

local function keep_mortal(ttl_ms)
  local left = redis.call('PTTL', SESSION)
  if left >= 0 then
    return
  end
  redis.call('PEXPIRE', SESSION, ttl_ms)
end

-- Did this acquisition end already? Then a repeated or belated call of its must change nothing.
local function finished(token, commit)
  if commit and string.sub(commit, 1, #token + 1) == token .. ' ' then
    return true
  end
  return redis.call('ZSCORE', RECEIPTS, token) ~= false
end

local function write_receipt(token, fence, now)
  local previous = redis.call('HGET', SESSION, '#commit')
  if previous then
    local other, score = string.match(previous, '^(%S+) (%d+)$')
    -- The previous one may still be asked about. Quiet sessions never come here within the minute.
    if other and other ~= token and tonumber(score) > now - RECEIPT_MS * 1000 then
      redis.call('ZADD', RECEIPTS, score, other)
      redis.call('ZREMRANGEBYRANK', RECEIPTS, 0, -MOST_RECEIPTS - 1)
      redis.call('PEXPIRE', RECEIPTS, RECEIPT_MS)
    end
  end
  redis.call('HSET', SESSION, '#commit', token .. ' ' .. fence)
end

-- May this id see the record? Its proof is 'p:' and the record's own name, or after regenerate() 's:' and the digest of a
-- newer id. Returns false for an id that was replaced and whose grace is over, or that was never given out.
local function admitted(proof, id, old, created, now)
  if not id then
    return string.sub(proof, 1, 2) == 'p:' or not created
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

-- A new record under an id that regenerate() once gave out (the old record is gone) belongs to that id only.
local function keep_id(proof, id)
  if not id and string.sub(proof, 1, 2) == 's:' then
    redis.call('HSET', SESSION, '#id', proof)
    keep_mortal(SHELL_MS)
  end
end

local function exists()
  return redis.call('HEXISTS', SESSION, '#created') == 1
end

-- Start the idle time anew when less than refresh_ms is left. Data is not touched.
local function touch(idle_ms, refresh_ms, now)
  if idle_ms <= 0 or not exists() then
    return
  end
  local left = redis.call('PTTL', SESSION)
  if left >= 0 and left >= refresh_ms then
    return
  end
  local expires = tonumber(redis.call('HGET', SESSION, '#expires'))
  if expires then
    idle_ms = math.min(idle_ms, math.floor((expires - now) / 1000))
  end
  redis.call('PEXPIRE', SESSION, digits(math.max(idle_ms, 1)))
end

-- Make token the holder; returns its fencing token as digits.
local function grant(token, ttl_ms, state, channel, label, now)
  local fence = digits(next_number(redis.call('HGET', SESSION, '#fence'), now, 'FENCE'))
  redis.call('SET', LOCK, token, 'PX', ttl_ms)
  redis.call('HSET', SESSION, '#fence', fence, '#holder',
    table.concat({token, state, digits(now), channel, label}, ' '))
  if not exists() then
    redis.call('PEXPIRE', SESSION, ttl_ms + SHELL_MS)
  else
    keep_mortal(ttl_ms + SHELL_MS)
  end
  return fence
end

local function confirm(token, ttl_ms)
  redis.call('PEXPIRE', LOCK, ttl_ms)
  local record = redis.call('HGET', SESSION, '#holder')
  local claim = token .. ' claim '
  if record and string.sub(record, 1, #claim) == claim then
    redis.call('HSET', SESSION, '#holder', token .. ' held ' .. string.sub(record, #claim + 1))
  end
end

local function leave_queue(token)
  redis.call('HDEL', WAITERS, token)
  return redis.call('ZREM', QUEUE, token)
end

local function pack(fields)
  local sizes = {}
  for i = 1, #fields do
    sizes[i] = #fields[i]
  end
  return table.concat(sizes, ',') .. '\n' .. table.concat(fields)
end

-- Push a grant to its waiter with the session, or without it when it is large. Returns whether somebody hears it.
local function push_grant(channel, token, fence, ttl_ms, push_limit, now)
  local head = table.concat({'G', token, fence, digits(now), ttl_ms}, ' ')
  local fields = redis.call('HGETALL', SESSION)
  local body = pack(fields)
  if #body > push_limit then
    head, body = head .. ' -', ''
  else
    head = head .. ' +'
  end
  return redis.call('PUBLISH', channel, head .. '\n' .. body) > 0
end

-- The lock is free: make the next live waiter its holder. Dead ones (deadline passed, nobody listens) are taken
-- out on the way, all in this one call. `asking` needs no push: its reply carries the grant. deaf = '1': a
-- publish count of 0 proves nothing here (Cluster). Returns the granted token and fence, or nil.
local function hand_over(asking, push_limit, deaf, now)
  while true do
    local head = redis.call('ZRANGE', QUEUE, 0, 0)[1]
    if not head then
      redis.call('DEL', LOCK)
      return nil
    end
    local record = redis.call('HGET', WAITERS, head)
    leave_queue(head)
    if record then
      local deadline, ttl, claim, channel, label = string.match(record, '^(%d+) (%d+) (%d+) (%S+) (.*)$')
      if head == asking then
        return head, grant(head, ttl, 'held', channel, label, now)
      end
      if tonumber(deadline) > now then
        local fence = grant(head, claim, 'claim', channel, label, now)
        if push_grant(channel, head, fence, claim, push_limit, now) or deaf == '1' then
          return head, fence
        end
      end
    end
  end
end

-- A handed-over lock lapsed without its holder's confirmation: that process hangs. Its other waiters would each
-- cost one more claim, so they leave the queue; when it lives after all, their tickets give them their places back.
local function drop_hung_waiters(record, commit)
  if not record then
    return
  end
  local token, state, channel = string.match(record, '^(%S+) (%S+) %d+ (%S+) ')
  if state ~= 'claim' or finished(token, commit) then
    return
  end
  local all = redis.call('HGETALL', WAITERS)
  for i = 1, #all, 2 do
    if string.match(all[i + 1], '^%d+ %d+ %d+ (%S+) ') == channel then
      leave_queue(all[i])
    end
  end
end

-- Changes stand in ARGV from `first` on, four words each: op field value base.
--   s  set to value      d  delete      i  add the integer value
-- base says what was read: '' nothing, '=bytes' exactly these, '#sha1' bytes of this SHA-1, '*' does not matter.
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

-- Returns nil, or {field, current value, ...} of what somebody else changed meanwhile.
local function conflicts(first)
  local found = nil
  for i = first, #ARGV, 4 do
    local op, field, base = ARGV[i], ARGV[i + 1], ARGV[i + 3]
    local clash
    local current = false
    if op == 'i' then
      current = redis.call('HGET', SESSION, field)
      clash = current and not string.match(current, '^-?%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$')
    elseif base ~= '*' then
      current = redis.call('HGET', SESSION, field)
      clash = not unchanged(current, base)
    end
    if clash then
      found = found or {}
      found[#found + 1] = field
      found[#found + 1] = current
    end
  end
  return found
end

local function apply(first)
  for i = first, #ARGV, 4 do
    local op, field = ARGV[i], ARGV[i + 1]
    if op == 's' then
      redis.call('HSET', SESSION, field, ARGV[i + 2])
    elseif op == 'd' then
      redis.call('HDEL', SESSION, field)
    else
      redis.call('HINCRBY', SESSION, field, ARGV[i + 2])
    end
  end
end

-- Bring the changes into the record; `created` is the stamp of the record that was loaded, '' for a new one.
-- Returns a refusal (nothing was changed), or nil and the new version.
local function commit_changes(first, created, idle_ms, absolute_ms, now)
  local stamp = redis.call('HGET', SESSION, '#created')
  if created ~= '' and stamp ~= created then
    return {'gone'} -- a delta must not revive part of a record that expired or was replaced
  end
  local clash = conflicts(first)
  if clash then
    return {'conflict', redis.call('HGET', SESSION, '#version') or '0', clash}
  end
  apply(first)
  local version = redis.call('HINCRBY', SESSION, '#version', 1)
  if not stamp then
    redis.call('HSET', SESSION, '#created', digits(now))
    local life = tonumber(idle_ms)
    if tonumber(absolute_ms) > 0 then
      redis.call('HSET', SESSION, '#expires', digits(now + absolute_ms * 1000))
      life = math.min(life, tonumber(absolute_ms))
    end
    redis.call('PEXPIRE', SESSION, digits(life))
  end
  return nil, version
end

-- Why a call that needs the lock is refused.
local function not_holder(token)
  local state = redis.call('HMGET', SESSION, '#commit', '#version', '#destroyed', '#fence')
  if finished(token, state[1]) then
    return {'already', state[2] or '0'}
  end
  if state[3] then
    return {'destroyed'}
  end
  return {'lost', state[4] or '0'}
end
