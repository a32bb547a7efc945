-- What release does where something is not as it should be.

-- The lock is not the token's any more. It is over: a late acquire of the token must not take it.
local function too_late(token, fence, low)
  local answer = not_holder(fence, token)
  if answer[1] == 'lost' then
    local last = parts_of(call('HGET', SESSION, '#state'))
    last.done = finish(token, low, last.done, LOST)
    call('HSET', SESSION, '#state', joined(last))
    if not last.created then
      keep_mortal(SHELL_MS)
    end
  end
  return answer
end

-- The token has the lock, but not all is as it was granted. Returns why nothing can be saved; or nil, and whether what this
-- holder has read is gone with everything else but the lock.
local function not_as_granted(token, fence, fields)
  local last = parts_of(fields[STATE])
  local current = last.fence or NONE
  if current == fence then
    return nil, false
  elseif current < fence then
    return nil, last.created ~= nil
  elseif call('HGET', SESSION, '#refused') == token .. ' ' .. current then
    return {'conflict', fields[VERSION] or '0', {}, current} -- as it was told; that reply was lost
  end
  return {'lost', current}
end

-- A refused save must not be carried out when it comes once more, and late: from now on the holder has another fence.
local function with_next_fence(refusal, token, fence, state)
  local now, now_digits = server_time()
  refusal[4] = next_fence(fence, now, now_digits)
  call('HSET', SESSION, '#state', refusal[4] .. string.sub(state, 17), '#refused', token .. ' ' .. refusal[4])
  return refusal
end

-- A *rider* waits in the releaser's process and is not in the queue: "ticket ttl_ms claim_ms patience_ms state token who" behind
-- `as_granted`. It is the next holder where nobody else has a lower ticket. `state`: held, or held+n: n others ride.
local RIDER_AT = 48

local function rider_of(as_granted)
  return string.match(as_granted, '^(%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (.*)$', RIDER_AT + 1)
end

-- Nobody waits in the queue, and the record need not be touched: the rider's grant joins `set`. Returns its token, ttl and
-- fence, which is the clock; nil where that way is closed.
local function ride_on(as_granted, set)
  local state, now = set[2], clock()
  if state < now and now < string.sub(state, 33, 48) then
    local _, ttl, _, _, held, rider, who = rider_of(as_granted)
    if is_new(rider, state) then
      set[2] = now .. string.sub(state, 17)
      set[3], set[4] = '#holder', rider .. ' ' .. held .. ' ' .. now .. ' ' .. who
      return rider, ttl, now
    end
  end
end

-- Others may wait: the lock goes to the next of them. `state`: #state as it is now; false: not known.
local function hand_on(reply, more, as_granted, state)
  local now, now_digits = server_time()
  local last = parts_of(state or call('HGET', SESSION, '#state'))
  local idle, refresh, carries, deaf, channel = string.match(more, '^(%d+) %d+ (%d+) %d+ %S+ (%d) (%d) (%S+)')
  if last.created then
    look_after_life(last, tonumber(idle), tonumber(refresh), now)
  end
  local ticket, ttl, claim, patience, held, rider, who = rider_of(as_granted)
  if rider and (repeated(rider, last.done) or exhausted(last.fence, now)) then
    rider = nil
  end
  local first = rider and call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES')[2]
  last.queued = last.queued and (not rider or first ~= nil)
  local rest, handed
  if not rider or first and tonumber(first) < tonumber(ticket) then
    local _
    _, rest, handed = hand_over(nil, channel, carries == '1', deaf == '1', now, now_digits, last)
  end
  if rider and not handed then
    if rest then
      join_queue(rider, ttl, claim, who, ticket, tonumber(patience), now, now_digits, last)
    else
      handed = granted_to(rider, grant(rider, ttl, held, who, now, now_digits, last), now_digits, ttl)
    end
  end
  reply[#reply + 1] = handed or rest == 'more' and rest or ''
  return reply
end
