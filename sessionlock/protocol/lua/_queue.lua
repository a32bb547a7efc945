-- The lock changes hands.

local LARGEST = 9007199254740991
local MOST_DEAD = 64 -- dead waiters that one call takes out of the queue: no call may take long

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

-- A fencing token above that one, as digits; no lower than the clock, so that it grows even when the last one was lost.
local function next_fence(last, now, now_digits)
  local number = next_number(last, now, 'FENCE')
  return number == now and now_digits or digits(number)
end

-- Make token the holder; `last` is what #state has, in parts. Returns its fencing token. `who`: "channel label".
local function grant(token, ttl_ms, kind, who, now, now_digits, last)
  last.fence = next_fence(last.fence, now, now_digits)
  local holder = token .. ' ' .. kind .. ' ' .. now_digits .. ' ' .. who
  call('HSET', SESSION, '#state', joined(last), '#holder', holder)
  call('SET', LOCK, token, 'PX', ttl_ms)
  if not last.created then
    keep_mortal(ttl_ms + SHELL_MS)
  end
  return last.fence
end

local function leave_queue(token)
  call('HDEL', WAITERS, token)
  return call('ZREM', QUEUE, token)
end

-- A newcomer gets the next ticket. A waiter that was here before keeps its ticket, even if it was dropped meanwhile; but
-- where tickets are of the future, since the clock was set back, all that come are behind them, or those would starve.
local function join_queue(token, ttl, claim, who, ticket, patience, now, now_digits, last)
  local highest = call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')[2]
  if highest and tonumber(highest) > now and tonumber(ticket) <= now then
    ticket = '0'
  end
  local asked = ticket
  if ticket == '0' then
    local number = next_number(highest, now, 'TICKET')
    ticket = number == now and now_digits or digits(number)
  end
  if call('ZADD', QUEUE, 'NX', ticket, token) == 0 and asked == '0' then
    ticket = digits(tonumber(call('ZSCORE', QUEUE, token)))
  end
  call('HSET', WAITERS, token, digits(now + patience * 1000) .. ' ' .. ttl .. ' ' .. claim .. ' ' .. who)
  if call('PTTL', QUEUE) < patience then
    call('PEXPIRE', QUEUE, patience * 2)
    call('PEXPIRE', WAITERS, patience * 2)
  end
  if not last.queued then
    last.queued = true
    call('HSET', SESSION, '#state', joined(last))
    if not last.created then
      keep_mortal(patience * 2)
    end
  end
  return ticket
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

-- As a waiter is told of its grant.
local function granted_to(token, fence, now_digits, lasts_ms, session)
  return 'G ' .. token .. ' ' .. fence .. ' ' .. now_digits .. ' ' .. lasts_ms .. (session or ' -\n')
end

-- The lock is free: make the next live waiter its holder. `asking` needs no push, its reply carries the grant; nor does
-- a waiter on the channel `own`, which gets it with this call's reply, and finds the session behind it. `carries`: whether
-- the session goes with a push.
-- Returns the granted token, its fence, and the grant for `own`. Nil and 'more' where MOST_DEAD were taken out and others
-- wait behind them: the lock is left free, and who asks next goes on. Nil where nobody waits.
local function hand_over(asking, own, carries, deaf, now, now_digits, last)
  local gone = {} -- channels of dead processes
  for _ = 1, MOST_DEAD do
    -- With no fence left the lock is given up, and whoever asks next is told.
    local head = not exhausted(last.fence, now) and call('ZPOPMIN', QUEUE)[1]
    if not head then
      call('DEL', LOCK)
      if last.queued then
        last.queued = false
        call('HSET', SESSION, '#state', joined(last))
      end
      return nil
    end
    local record = call('HGET', WAITERS, head)
    call('HDEL', WAITERS, head)
    if record then
      local deadline, ttl, claim, channel, label = string.match(record, '^(%d+) (%d+) (%d+) (%S+) (.*)$')
      local who = channel .. ' ' .. label
      if head == asking then
        return head, grant(head, ttl, 'held', who, now, now_digits, last)
      end
      if channel ~= own and gone[channel] == nil then
        gone[channel] = is_gone(channel, deaf)
      end
      if tonumber(deadline) > now and not gone[channel] then
        local fence = grant(head, claim, 'claim', who, now, now_digits, last)
        if channel == own then
          return head, fence, granted_to(head, fence, now_digits, claim)
        end
        push(channel, granted_to(head, fence, now_digits, claim, carries and packed_session()))
        return head, fence
      end
    end
  end
  call('DEL', LOCK)
  return nil, 'more'
end
