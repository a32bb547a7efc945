-- Take the session's lock if it is free, else join its queue; on a grant load the session and touch its TTL.
-- Repeating it (lost reply) returns the same grant; repeated after the acquisition ended it takes nothing.
--
-- uses  base receipts ids touch queue
-- KEYS  lock queue waiters session receipts
-- ARGV  token ttl_ms claim_ms channel label missing queueing max_waiters ticket idle_ms refresh_ms patience_ms push_limit deaf proof
-- reply granted fence now_us left_ms {field value ...}
--       queued ticket position left_ms holder_label held_us now_us     (left_ms -1: the lock has no end)
--       busy holder_label held_us waiting left_ms               (not queued: queueing = 0)
--       full holder_label held_us waiting left_ms
--       destroyed | missing | dead | finished      dead: there may be a record, but not for this id

local token, ttl, claim, channel, label = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local missing, queueing, max_waiters, ticket = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local idle, refresh, patience = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local push_limit, deaf, proof = tonumber(ARGV[13]), ARGV[14], ARGV[15]

local now, now_digits = server_time()
local held = call('GET', LOCK)
local state, whole = {}, nil

-- A waiter needs the reserved fields only; for a holder-to-be one reading serves for both.
if held and held ~= token then
  local names = {'#commit', '#destroyed', '#created', '#holder', '#fence', '#id', '#old'}
  local values = call('HMGET', SESSION, unpack(names))
  for i = 1, #names do
    state[names[i]] = values[i]
  end
else
  whole = call('HGETALL', SESSION)
  for i = 1, #whole, 2 do
    if string.byte(whole[i]) == 35 then
      state[whole[i]] = whole[i + 1]
    end
  end
end

local function granted(fence)
  if state['#created'] then
    touch(idle, refresh, now)
  end
  return {'granted', fence, now_digits, tonumber(ttl), whole}
end

if held == token then
  call('PEXPIRE', LOCK, ttl)
  local mark = token .. ' claim '
  local record = state['#holder'] or ''
  if string.sub(record, 1, #mark) == mark then
    call('HSET', SESSION, '#holder', token .. ' held ' .. string.sub(record, #mark + 1))
  end
  return granted(state['#fence'] or '0')
end
if finished(token, state['#commit']) then
  return {'finished'}
end
local refused = state['#destroyed'] and ended(state['#id'], state['#destroyed'], now)
  or not admitted(proof, state['#id'], state['#old'], now) and not_admitted(proof, state['#old'], now, 'missing')
  or missing == 'reject' and not state['#created'] and 'missing'
if refused then
  leave_queue(token)
  return {refused}
end

local queued = call('EXISTS', QUEUE) == 1
if not held then
  next_number(state['#fence'], now, 'FENCE') -- raises when there is none left, before anything is written
  if not queued then
    return granted(grant(token, ttl, 'held', channel, label, now, now_digits, state['#fence'], state['#created']))
  end
end

-- From here on somebody else holds the lock or waits for it.

local function holder_words(lock, record)
  local owner, since, who = string.match(record or '', '^(%S+) %S+ (%d+) %S+ (.*)$')
  if owner and owner == lock then
    return who, digits(math.max(0, now - since))
  end
  return 'another client', '-1'
end

local function refuse(kind)
  local who, age = holder_words(call('GET', LOCK), call('HGET', SESSION, '#holder'))
  return {kind, who, age, call('ZCARD', QUEUE), call('PTTL', LOCK)}
end

local function drop_expired_waiters()
  local all = call('HGETALL', WAITERS)
  for i = 1, #all, 2 do
    if tonumber(string.match(all[i + 1], '^%d+')) <= now then
      leave_queue(all[i])
    end
  end
end

-- A handed-over lock lapsed without its holder's confirmation: that process hangs. Its other waiters would each cost
-- one more claim, so they leave the queue; when it lives after all, their tickets give them their places back.
local function drop_hung_waiters()
  local holder, kind, where = string.match(state['#holder'] or '', '^(%S+) (%S+) %d+ (%S+) ')
  if kind ~= 'claim' or finished(holder, state['#commit']) then
    return
  end
  local all = call('HGETALL', WAITERS)
  for i = 1, #all, 2 do
    if string.match(all[i + 1], '^%d+ %d+ %d+ (%S+) ') == where then
      leave_queue(all[i])
    end
  end
end

-- A newcomer gets the next ticket. A waiter that was here before keeps its ticket, even if it was dropped meanwhile.
local function join_queue()
  local asked = ticket
  if ticket == '0' then
    local last = queued and call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES') or {}
    local number = next_number(last[2], now, 'TICKET')
    ticket = number == now and now_digits or digits(number)
  end
  if call('ZADD', QUEUE, 'NX', ticket, token) == 0 and asked == '0' then
    ticket = digits(tonumber(call('ZSCORE', QUEUE, token)))
  end
  call('HSET', WAITERS, token,
    digits(now + patience * 1000) .. ' ' .. ttl .. ' ' .. claim .. ' ' .. channel .. ' ' .. label)
  if call('PTTL', QUEUE) < patience or call('HLEN', WAITERS) == 1 then
    call('PEXPIRE', QUEUE, patience * 2)
    call('PEXPIRE', WAITERS, patience * 2)
  end
end

local function queue_is_full()
  if ticket ~= '0' or call('ZCARD', QUEUE) < max_waiters or call('ZSCORE', QUEUE, token) then
    return false
  end
  drop_expired_waiters()
  return call('ZCARD', QUEUE) >= max_waiters
end

if not held then
  drop_hung_waiters()
  if queueing == '1' then
    join_queue()
  end
  local head, fence = hand_over(token, nil, push_limit, deaf, now, now_digits, state['#fence'], state['#created'])
  if head == token then
    return granted(fence)
  elseif not head then
    return granted(grant(token, ttl, 'held', channel, label, now, now_digits, state['#fence'], state['#created']))
  elseif queueing == '0' then
    return refuse('busy')
  end
  held, state['#holder'] = head, call('HGET', SESSION, '#holder')
elseif queueing == '0' then
  return refuse('busy')
elseif queue_is_full() then
  return refuse('full')
else
  join_queue()
end
local who, age = holder_words(held, state['#holder'])
return {'queued', ticket, call('ZRANK', QUEUE, token), call('PTTL', LOCK), who, age, now_digits}
