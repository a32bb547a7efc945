-- The lock changes hands.

local LARGEST = 9007199254740991

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

-- Make token the holder; returns its fencing token as digits. `created`: whether there is a record, which has a TTL.
local function grant(token, ttl_ms, state, channel, label, now, now_digits, last_fence, created)
  local number = next_number(last_fence, now, 'FENCE')
  local fence = number == now and now_digits or digits(number)
  call('SET', LOCK, token, 'PX', ttl_ms)
  call('HSET', SESSION, '#fence', fence, '#holder',
    token .. ' ' .. state .. ' ' .. now_digits .. ' ' .. channel .. ' ' .. label)
  if not created then
    keep_mortal(ttl_ms + SHELL_MS)
  end
  return fence
end

local function leave_queue(token)
  call('HDEL', WAITERS, token)
  return call('ZREM', QUEUE, token)
end

-- A grant with the session, or without it when that is large.
local function handover(token, fence, ttl_ms, push_limit, now_digits)
  local fields = call('HGETALL', SESSION)
  local sizes = {}
  for i = 1, #fields do
    sizes[i] = #fields[i]
  end
  local head = 'G ' .. token .. ' ' .. fence .. ' ' .. now_digits .. ' ' .. ttl_ms
  local body = table.concat(sizes, ',') .. '\n' .. table.concat(fields)
  if #body > push_limit then
    return head .. ' -\n'
  end
  return head .. ' +\n' .. body
end

-- The lock is free: make the next live waiter its holder. Dead ones (deadline passed, nobody listens) are taken out on
-- the way, all in this one call. `asking` needs no push: its reply carries the grant. A waiter on the channel `own` gets
-- it with this call's reply.
-- Returns the granted token, its fence, and the handover for `own`; or nil.
local function hand_over(asking, own, push_limit, deaf, now, now_digits, last_fence, created)
  while true do
    -- With no fence left the lock is given up, and whoever asks next is told.
    local head = not exhausted(last_fence, now) and call('ZPOPMIN', QUEUE)[1]
    if not head then
      call('DEL', LOCK)
      return nil
    end
    local record = call('HGET', WAITERS, head)
    call('HDEL', WAITERS, head)
    if record then
      local deadline, ttl, claim, channel, label = string.match(record, '^(%d+) (%d+) (%d+) (%S+) (.*)$')
      if head == asking then
        return head, grant(head, ttl, 'held', channel, label, now, now_digits, last_fence, created)
      end
      if tonumber(deadline) > now then
        local fence = grant(head, claim, 'claim', channel, label, now, now_digits, last_fence, created)
        local message = handover(head, fence, claim, push_limit, now_digits)
        if channel == own then
          return head, fence, message
        end
        if push(channel, message, deaf) > 0 then
          return head, fence
        end
        last_fence = fence
      end
    end
  end
end
