-- The lock changes hands.

local LARGEST = 9007199254740991
local MOST_DEAD = 32 -- dead waiters that one call takes out of the queue: no call may take long

-- Fences and tickets grow even when their last value was lost: no less than the server's microseconds.
local function next_number(last, now, what)
  local number = math.max((number_in(last) or 0) + 1, now)
  if number >= LARGEST then
    return error(what .. 'EXHAUSTED the ' .. what .. ' of this session has reached 2^53')
  end
  return number
end

local function exhausted(last, now)
  return math.max((number_in(last) or 0) + 1, now) >= LARGEST
end

-- The lock is token's: write that down. Returns its fencing token as digits. `who`: "channel label". `created`: whether
-- there is a record, which has a TTL.
local function enter_holder(token, ttl_ms, state, who, now, now_digits, last_fence, created)
  local number = next_number(last_fence, now, 'FENCE')
  local fence = number == now and now_digits or digits(number)
  call('HSET', SESSION, '#fence', fence, '#holder', token .. ' ' .. state .. ' ' .. now_digits .. ' ' .. who)
  if not created then
    keep_mortal(ttl_ms + SHELL_MS)
  end
  return fence
end

local function grant(token, ttl_ms, state, who, now, now_digits, last_fence, created)
  local fence = enter_holder(token, ttl_ms, state, who, now, now_digits, last_fence, created)
  call('SET', LOCK, token, 'PX', ttl_ms)
  return fence
end

local function leave_queue(token)
  call('HDEL', WAITERS, token)
  return call('ZREM', QUEUE, token)
end

-- The session as a grant carries it.
local function packed_session()
  local fields = call('HGETALL', SESSION)
  local sizes = {}
  for i = 1, #fields do
    sizes[i] = #fields[i]
  end
  return ' +\n' .. table.concat(sizes, ',') .. '\n' .. table.concat(fields)
end

-- The lock is free: make the next live waiter its holder. `asking` needs no push, its reply carries the grant; nor does
-- a waiter on the channel `own`, which gets it with this call's reply, and finds the session behind it. `carries`: whether
-- the session goes with a push.
-- Returns the granted token, its fence, and the grant for `own`. Nil and 'more' where MOST_DEAD were taken out and others
-- wait behind them: the lock is left free, and who asks next goes on. Nil where nobody waits.
local function hand_over(asking, own, carries, deaf, now, now_digits, last_fence, created)
  for _ = 1, MOST_DEAD do
    -- With no fence left the lock is given up, and whoever asks next is told.
    local head = not exhausted(last_fence, now) and call('ZPOPMIN', QUEUE)[1]
    if not head then
      call('DEL', LOCK)
      call('HDEL', SESSION, '#queued')
      return nil
    end
    local record = call('HGET', WAITERS, head)
    call('HDEL', WAITERS, head)
    if record then
      local deadline, ttl, claim, channel, label = string.match(record, '^(%d+) (%d+) (%d+) (%S+) (.*)$')
      local who = channel .. ' ' .. label
      if head == asking then
        return head, grant(head, ttl, 'held', who, now, now_digits, last_fence, created)
      end
      if tonumber(deadline) > now and (channel == own or not is_gone(channel, deaf)) then
        local fence = grant(head, claim, 'claim', who, now, now_digits, last_fence, created)
        local message = 'G ' .. head .. ' ' .. fence .. ' ' .. now_digits .. ' ' .. claim
        if channel == own then
          return head, fence, message .. ' -\n'
        end
        push(channel, message .. (carries and packed_session() or ' -\n'))
        return head, fence
      end
    end
  end
  call('DEL', LOCK)
  return nil, 'more'
end
