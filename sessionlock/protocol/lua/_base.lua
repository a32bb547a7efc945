-- Every script on one session begins with this part. All keys are declared.
--
-- lock      string  the holder's token, PX = lease
-- queue     zset    waiting tokens; score = ticket, a number that grows in the order of arrival
-- waiters   hash    token -> "deadline_us ttl_ms claim_ms channel label"
-- session   hash    one field per session key, and reserved fields:
--                     #fence    highest fencing token granted          #version  number of commits
--                     #created  when the record came to be (us)        #expires  absolute end (us)
--                     #holder   "token state since_us channel label", state = held | claim
--                     #commit   "token when_us": the acquisition or commit that finished last
--                     #op       the immediate save applied last
--                     #forced   the holder that was taken out by force last
--                     #destroyed  tombstone
--                     #id       proof of the id that is valid now: 'p:...' of the one that the record's name was made
--                               of, 's:...' of a later one; a record has it from its beginning, a shell rarely
--                     #old      "proof@until_us ...": ids that were valid before, in their grace
--                     #user     digest of the user, for the index of a user's sessions
--                     #indexed  when it was last entered there (us)
-- receipts  zset    acquisitions that finished shortly before that one; score = when (us)
--
-- Numbers up to 2^53 are exact in Lua's doubles but print as 1.7e+15: they leave through digits() only.

local LOCK, QUEUE, WAITERS, SESSION, RECEIPTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SHELL_MS = 60000 -- a record that holds nothing but a fence
local call = redis.call

local function digits(number)
  return string.format('%.0f', number)
end

-- The server's clock in microseconds, as a number and as digits.
local function server_time()
  local time = call('TIME')
  return time[1] * 1000000 + time[2], time[1] .. string.sub('000000' .. time[2], -6)
end

-- A reserved field as a number; nil when it is absent, or not one that we wrote.
local function number_in(text)
  return text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text) or nil
end

-- A hash of somebody else's, without our #created, keeps the life that its owner gave it.
local function holds_data()
  for _, field in ipairs(call('HKEYS', SESSION)) do
    if string.byte(field) ~= 35 or string.byte(field, 2) == 35 then
      return true
    end
  end
  return false
end

-- Reserved fields alone must not live for ever.
local function keep_mortal(ttl_ms)
  local left = call('PTTL', SESSION)
  if left >= 0 and left < ttl_ms or left == -1 and not holds_data() then
    call('PEXPIRE', SESSION, ttl_ms)
  end
end

-- Tell a process something; returns how many heard it. In a Cluster from 7.0 on its channel lies in the session's slot
-- (it has the braces of a hash tag), and all who listen are counted. deaf = '1': other channels' counts prove nothing.
local function push(channel, message, deaf)
  if string.find(channel, '{', 1, true) then
    -- A holder that never waited names such a channel before 7.0, too, where nobody can listen there.
    local heard = redis.pcall('SPUBLISH', channel, message)
    return type(heard) == 'number' and heard or 0
  end
  local heard = redis.pcall('PUBLISH', channel, message) -- where it is not permitted, nobody hears
  return math.max(type(heard) == 'number' and heard or 0, deaf == '1' and 1 or 0)
end
