-- Every script on one session begins with this part. All keys are declared.
--
-- lock      string  the holder's token, PX = lease
-- queue     zset    waiting tokens; score = ticket, a number that grows in the order of arrival
-- waiters   hash    token -> "deadline_us ttl_ms claim_ms channel label"
-- session   hash    one field per session key, and reserved fields:
--                     #state    what most calls look at, in one string (see `parts_of`): the highest fencing token granted;
--                               when the record came to be (us); when its life needs a look; whether there may be waiters; whose id is valid;
--                               what finished last (_done.lua)
--                     #version  number of commits                      #expires  absolute end (us)
--                     #old      "proof@until_us ...": ids in their grace
--                     #holder   "token state since_us channel label", state = held | claim | held+n: n riders
--                               wait in the holder's process (_release.lua)
--                     #refused  "token fence": the holder's save was refused, and it has this fence from then on
--                     #forced   the holder that was taken out by force last
--                     #destroyed  tombstone                            #replaced  another session took its place
--                     #floor, #away  belong to the completion records
--                     #user     digest of the user, for the index of a user's sessions
--                     #indexed  when it was last entered there (us)
-- receipts  hash    completion records of other clients, by name
--
-- Numbers up to 2^53 are exact in Lua's doubles but print as 1.7e+15: they leave through digits() only, as 16 digits, of
-- which two compare as their numbers do.

local LOCK, QUEUE, WAITERS, SESSION, RECEIPTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SHELL_MS = 60000 -- a record that holds nothing but a fence
local call = redis.call

local function digits(number)
  return string.format('%016.0f', number)
end

-- As Redis takes whole numbers: without zeros in front.
local function whole(number)
  return string.format('%.0f', number)
end

-- #state: fence, created, due (16 digits each, zeros for none), '1' where there may be waiters, the proof of the id that is
-- valid now (26 characters, dashes where there is no record), and a completion record, if anything has finished yet. A
-- proof is 'p:...' of an id that the record's name was made of, 's:...' of a later one.
local NONE = '0000000000000000'
local NO_ID = '--------------------------'

local QUEUED_AT, ID_AT, DONE_AT = 49, 50, 76

-- In parts; what there is none of is nil.
local function parts_of(state)
  if not state or #state < DONE_AT - 1 then
    return {}
  end
  local function part(from, to, none)
    local text = string.sub(state, from, to)
    return text ~= none and text or nil
  end
  return {
    fence = part(1, 16, NONE), created = part(17, 32, NONE), due = part(33, 48, NONE),
    queued = string.byte(state, QUEUED_AT) == 49, id = part(ID_AT, DONE_AT - 1, NO_ID), done = part(DONE_AT, -1, ''),
  }
end

local function joined(parts)
  return (parts.fence or NONE) .. (parts.created or NONE) .. (parts.due or NONE) .. (parts.queued and '1' or '0')
    .. (parts.id or NO_ID) .. (parts.done or '')
end

-- The server's clock in microseconds, as 16 digits. Two such strings compare as their numbers do.
local function clock()
  local time = call('TIME')
  local seconds, rest = time[1], time[2]
  return #rest == 6 and seconds .. rest or seconds .. string.sub('00000' .. rest, -6)
end

-- The same, as a number and as digits.
local function server_time()
  local now_digits = clock()
  return tonumber(now_digits), now_digits
end

-- A reserved field as a number; nil when it is absent, or not one that we wrote.
local function number_in(text)
  return text and #text <= 16 and not string.find(text, '%D') and tonumber(text) or nil
end

-- Whether a field is the application's. Reserved ones begin with '#'; one of its own that does begins with two.
local function is_own(field)
  return string.byte(field) ~= 35 or string.byte(field, 2) == 35
end

-- A hash of somebody else's, which is no record of ours, keeps the life that its owner gave it.
local function holds_data()
  for _, field in ipairs(call('HKEYS', SESSION)) do
    if is_own(field) then
      return true
    end
  end
  return false
end

-- A shell or tombstone must not live for ever, nor end before ttl_ms. A record has its own life.
local function keep_mortal(ttl_ms)
  local left = call('PTTL', SESSION)
  if left >= 0 and left < ttl_ms or left == -1 and not holds_data() then
    call('PEXPIRE', SESSION, ttl_ms)
  end
end

-- The record ends now: what is left is a shell, which knows of fences and finished calls for a while.
local function end_record()
  local names = {'#state', '#floor', '#away', '#holder', '#vector'}
  local kept = call('HMGET', SESSION, unpack(names))
  local last = parts_of(kept[1])
  kept[1] = joined({fence = last.fence, queued = last.queued, done = last.done})
  call('DEL', SESSION)
  for i, name in ipairs(names) do
    if kept[i] then
      call('HSET', SESSION, name, kept[i])
    end
  end
  call('PEXPIRE', SESSION, math.max(SHELL_MS, call('PTTL', LOCK) + SHELL_MS))
end

-- In a Cluster from 7.0 on a process' channel lies in the session's slot: it has the braces of a hash tag.
local function is_sharded(channel)
  return string.find(channel, '{', 1, true) ~= nil
end

-- Tell a process something. It may hear it although nobody is counted: who listens at a replica does.
local function push(channel, message)
  redis.pcall(is_sharded(channel) and 'SPUBLISH' or 'PUBLISH', channel, message)
end

-- Whether nobody listens there any more. Asked before anything is sent: who is passed over must never hear of it. Deaf: a
-- classic channel in a Cluster, whose listeners may be at any node.
local function is_gone(channel, deaf)
  if channel == '-' then
    return true
  end
  local sharded = is_sharded(channel)
  if deaf and not sharded then
    return false
  end
  local listed = redis.pcall('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', channel)
  return listed[2] == 0 -- where asking is not permitted, an error has no second part
end

-- The session has ended: those who wait for it are told, the first MOST_TOLD of them; others learn it as they look next.
local MOST_TOLD = 64

local function dismiss_waiters()
  for _, waiter in ipairs(call('ZRANGE', QUEUE, 0, MOST_TOLD - 1)) do
    local channel = string.match(call('HGET', WAITERS, waiter) or '', '^%d+ %d+ %d+ (%S+) ')
    if channel then
      push(channel, 'D ' .. waiter)
    end
  end
  -- Not DEL, which takes time for each; where that is not permitted, there is no other way.
  if call('ZCARD', QUEUE) <= MOST_TOLD or type(redis.pcall('UNLINK', QUEUE, WAITERS)) ~= 'number' then
    call('DEL', QUEUE, WAITERS)
  end
end
