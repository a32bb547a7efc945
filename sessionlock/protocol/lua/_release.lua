-- What release does where something is not as it should be.

-- `granted` is a word with fixed places: fence, created (dashes: there was no record), 16 digits each; op, low; and behind them
-- "idle_ms absolute_ms refresh_ms limit_bytes measured carries deaf channel proof". measured: the version that the changes were
-- found to leave below the limit; carries 1: the session goes with a push. In a second line there may be a *rider*, who waits
-- in the releaser's process and is not in the queue: "ticket ttl_ms claim_ms patience_ms state token who". It is the next
-- holder where nobody else has a lower ticket. Its state: held, or held+n: n others ride.
local OP_AT, LOW_AT, MORE_AT = 33, 61, 77

local function rider_of(granted, line_at)
  return string.match(granted, '^\n(%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (.*)$', line_at)
end

-- #state when this has finished.
local function state_after(state, fence, granted, value)
  local op, low = string.sub(granted, OP_AT, LOW_AT - 1), string.sub(granted, LOW_AT, MORE_AT - 1)
  return with_finished(state, fence, op, low, value)
end

-- The lock is not the token's any more. It is over: a late acquire of the token must not take it.
local function too_late(token, granted)
  local answer = not_holder(string.sub(granted, 1, 16), token)
  if answer[1] == 'lost' then
    local last = parts_of(call('HGET', SESSION, '#state'))
    last.done = finish(token, string.sub(granted, LOW_AT, MORE_AT - 1), last.done, LOST)
    call('HSET', SESSION, '#state', joined(last))
    if not last.created then
      keep_mortal(SHELL_MS)
    end
  end
  return answer
end

-- The token has the lock, but not all is as it was granted. Returns why nothing can be saved; or nil, and whether all that
-- was there is gone but for the lock: then not even a session that was missing is begun, for it may have come and ended.
local function not_as_granted(token, fence, fields)
  local last = parts_of(fields[STATE])
  local current = last.fence or NONE
  if current == fence then
    return nil, false
  elseif current < fence then
    return nil, true
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

-- Nobody waits in the queue, and the record need not be touched: the rider's grant joins `set`. Returns its token, ttl and
-- fence, which is the clock; nil where that way is closed.
local function ride_on(granted, line_at, set)
  local state, now = set[2], clock()
  if state < now and now < string.sub(state, 33, 48) then
    local _, ttl, _, _, held, rider, who = rider_of(granted, line_at)
    if not repeated(rider, done_in(state)) then
      set[2] = now .. string.sub(state, 17)
      set[3], set[4] = '#holder', rider .. ' ' .. held .. ' ' .. now .. ' ' .. who
      return rider, ttl, now
    end
  end
end

-- Others may wait: the lock goes to the next of them. `state`: #state as it is now; false: not known.
local function hand_on(reply, granted, line_at, state)
  local now, now_digits = server_time()
  local last = parts_of(state or call('HGET', SESSION, '#state'))
  local idle, refresh, carries, deaf, channel = string.match(granted, '^(%d+) %d+ (%d+) %d+ %S+ (%d) (%d) (%S+)', MORE_AT)
  if last.created then
    look_after_life(last, tonumber(idle), tonumber(refresh), now)
  end
  local ticket, ttl, claim, patience, held, rider, who
  if line_at then
    ticket, ttl, claim, patience, held, rider, who = rider_of(granted, line_at)
  end
  if rider and (repeated(rider, last.done) or exhausted(last.fence, now)) then
    rider = nil
  end
  local first = rider and call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES')[2]
  last.queued = last.queued and (not rider or first ~= nil)
  local rest, handed
  -- A ticket in the future tells nothing of who came first: the clock was set back. Then the queue is.
  if not rider or first and (tonumber(first) < tonumber(ticket) or tonumber(first) > now) then
    local _
    _, rest, handed = hand_over(nil, channel, carries == '1', deaf == '1', now, now_digits, last)
  end
  if rider and not handed then
    if rest then
      join_queue(rider, ttl, claim, who, ticket, tonumber(patience), now, now_digits, last)
    else
      leave_queue(rider) -- it may have asked for a place meanwhile
      handed = granted_to(rider, grant(rider, ttl, held, who, now, now_digits, last), now_digits, ttl)
    end
  end
  reply[#reply + 1] = handed or rest == 'more' and rest or ''
  return reply
end
