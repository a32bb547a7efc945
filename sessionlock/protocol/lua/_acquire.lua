-- What acquire does where the short way is closed.

local function holder_words(lock, record, now)
  local owner, since, label = string.match(record or '', '^(%S+) %S+ (%d+) %S+ (.*)$')
  if owner and owner == lock then
    return label, digits(math.max(0, now - since))
  end
  return 'another client', '-1'
end

local function refuse(kind, now)
  local label, age = holder_words(call('GET', LOCK), call('HGET', SESSION, '#holder'), now)
  return {kind, label, age, call('ZCARD', QUEUE), call('PTTL', LOCK)}
end

-- A handed-over lock lapsed without its holder's confirmation: that process hangs. Its other waiters would each cost one
-- more claim, so they leave the queue; when it lives after all, their tickets give them their places back. Returns whether
-- there may be more of them: one call takes MOST_DEAD out, and the lock stays free for whoever asks next.
local function drop_hung_waiters(record, done)
  local holder, kind, where = string.match(record or '', '^(%S+) (%S+) %d+ (%S+) ')
  if kind ~= 'claim' or repeated(holder, done) then
    return false
  end
  local dropped = 0
  for _, other in ipairs(call('ZRANGE', QUEUE, 0, MOST_DEAD - 1)) do
    if string.match(call('HGET', WAITERS, other) or '', '^%d+ %d+ %d+ (%S+) ') == where then
      leave_queue(other)
      dropped = dropped + 1
    end
  end
  return dropped == MOST_DEAD
end

-- Those that were not heard of for too long are the first in the queue, mostly.
local function drop_expired_waiters(now)
  for _, other in ipairs(call('ZRANGE', QUEUE, 0, MOST_DEAD - 1)) do
    local deadline = string.match(call('HGET', WAITERS, other) or '', '^%d+')
    if not deadline or tonumber(deadline) <= now then
      leave_queue(other)
    end
  end
end

local function queue_is_full(token, ticket, max_waiters, now)
  if ticket ~= '0' or call('ZCARD', QUEUE) < max_waiters or call('ZSCORE', QUEUE, token) then
    return false
  end
  drop_expired_waiters(now)
  return call('ZCARD', QUEUE) >= max_waiters
end

local function acquire_slowly(token, ttl, who, more, state, now, now_digits)
  local proof, missing, queueing, max_waiters, claim, idle, refresh, patience, deaf, ticket =
    string.match(more, '^ ?(%S+) (%S+) (%d) (%d+) (%d+) (%d+) (%d+) (%d+) (%d) (%d+)$')
  proof = string.sub(proof, 1, DONE_AT - ID_AT)
  max_waiters, idle, refresh, patience = tonumber(max_waiters), tonumber(idle), tonumber(refresh), tonumber(patience)
  deaf = deaf == '1'
  local last = parts_of(state)
  local record, destroyed, old = call('HGET', SESSION, '#holder'), nil, nil
  local held = call('GET', LOCK)

  if last.created and look_after_life(last, idle, refresh, now) then
    call('HSET', SESSION, '#state', joined(last))
  end
  if held == token then
    call('PEXPIRE', LOCK, ttl)
    local mark = token .. ' claim '
    if record and string.sub(record, 1, #mark) == mark then
      call('HSET', SESSION, '#holder', token .. ' held ' .. string.sub(record, #mark + 1))
    elseif not last.fence or string.sub(record or '', 1, #token + 1) ~= token .. ' ' then
      last.fence = grant(token, ttl, 'held', who, now, now_digits, last) -- all was lost but the lock
    end
    return {'granted', last.fence, now_digits}
  end
  local answer = repeated(token, last.done)
  -- Who stands in the queue has not ended, however many clients have been forgotten meanwhile.
  if answer and (answer[1] == 'already' or not call('ZSCORE', QUEUE, token)) then
    return answer
  end
  if not last.created then
    destroyed = call('HGET', SESSION, '#destroyed')
  end
  if last.id and last.id ~= proof then
    old = call('HGET', SESSION, '#old')
  end
  local refused = destroyed and ended_word(call('HGET', SESSION, '#replaced'), destroyed, now)
    or not admitted(proof, last.id, old, now) and not_admitted(proof, old, now, 'missing')
    or missing == 'reject' and not last.created and 'missing'
  if refused then
    leave_queue(token)
    return {refused}
  end
  if not held then
    next_number(last.fence, now, 'FENCE') -- raises when there is none left, before anything is written
    if call('EXISTS', QUEUE) == 0 then
      last.queued = false
      return {'granted', grant(token, ttl, 'held', who, now, now_digits, last), now_digits}
    end
    local others_hang = drop_hung_waiters(record, last.done)
    if queueing == '1' then
      ticket = join_queue(token, ttl, claim, who, ticket, patience, now, now_digits, last)
    end
    local head, fence = nil, 'more'
    if not others_hang then
      head, fence = hand_over(token, nil, false, deaf, now, now_digits, last)
    end
    if head == token then
      return {'granted', fence, now_digits}
    elseif not head and fence ~= 'more' then
      leave_queue(token)
      return {'granted', grant(token, ttl, 'held', who, now, now_digits, last), now_digits}
    elseif queueing == '0' then
      return refuse('busy', now)
    end
    held, record = head, call('HGET', SESSION, '#holder')
  elseif queueing == '0' then
    return refuse('busy', now)
  elseif queue_is_full(token, ticket, max_waiters, now) then
    return refuse('full', now)
  else
    ticket = join_queue(token, ttl, claim, who, ticket, patience, now, now_digits, last)
  end
  local label, age = holder_words(held, record, now)
  return {'queued', ticket, call('ZRANK', QUEUE, token), call('PTTL', LOCK), label, age, now_digits}
end
