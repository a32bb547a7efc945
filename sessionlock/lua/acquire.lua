-- Take the session's lock if it is free, else join its queue; on a grant load the session and touch its TTL.
-- Repeating it (lost reply) returns the same grant; repeated after the acquisition ended it takes nothing.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  token ttl_ms claim_ms channel label missing queueing max_waiters ticket idle_ms refresh_ms patience_ms push_limit deaf proof
-- reply granted fence now_us left_ms {field value ...}
--       queued ticket position left_ms holder_label held_us now_us     (left_ms -1: the lock has no end)
--       busy holder_label held_us waiting left_ms               (not queued: queueing = 0)
--       full holder_label held_us waiting left_ms
--       destroyed | missing | finished

local token, ttl, claim, channel, label = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local missing, queueing, max_waiters, ticket = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local idle, refresh, patience = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local push_limit, deaf, proof = tonumber(ARGV[13]), ARGV[14], ARGV[15]

local now = server_time()
local held = redis.call('GET', LOCK)
local state = redis.call('HMGET', SESSION, '#commit', '#destroyed', '#created', '#holder', '#fence', '#id', '#old')

local function granted(fence, left)
  touch(idle, refresh, now)
  return {'granted', fence, digits(now), left, redis.call('HGETALL', SESSION)}
end

local function holder_words()
  local record = redis.call('HGET', SESSION, '#holder')
  local lock = redis.call('GET', LOCK)
  local owner, since, who = string.match(record or '', '^(%S+) %S+ (%d+) %S+ (.*)$')
  if owner and owner == lock then
    return who, digits(math.max(0, now - since))
  end
  return 'another client', '-1'
end

local function refuse(kind)
  local who, age = holder_words()
  return {kind, who, age, redis.call('ZCARD', QUEUE), redis.call('PTTL', LOCK)}
end

local function drop_expired_waiters()
  local all = redis.call('HGETALL', WAITERS)
  for i = 1, #all, 2 do
    if tonumber(string.match(all[i + 1], '^%d+')) <= now then
      leave_queue(all[i])
    end
  end
end

local function join_queue()
  local place = redis.call('ZSCORE', QUEUE, token)
  if place then
    ticket = digits(tonumber(place))
  else
    if ticket == '0' then
      local last = redis.call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')
      ticket = digits(next_number(last[2], now, 'TICKET'))
    end
    redis.call('ZADD', QUEUE, ticket, token)
  end
  redis.call('HSET', WAITERS, token,
    table.concat({digits(now + patience * 1000), ttl, claim, channel, label}, ' '))
  redis.call('PEXPIRE', QUEUE, patience * 2)
  redis.call('PEXPIRE', WAITERS, patience * 2)
end

if held == token then
  confirm(token, ttl)
  return granted(state[5] or '0', tonumber(ttl))
end
if finished(token, state[1]) then
  return {'finished'}
end
if state[2] then
  leave_queue(token)
  return {'destroyed'}
end
if missing == 'reject' and not state[3] or not admitted(proof, state[6], state[7], state[3], now) then
  leave_queue(token)
  return {'missing'}
end
keep_id(proof, state[6])

if not held then
  drop_hung_waiters(state[4], state[1])
  local waiting = redis.call('EXISTS', QUEUE) == 1
  if waiting and queueing == '0' then
    waiting = hand_over(token, push_limit, deaf, now) ~= nil
    if waiting then
      return refuse('busy')
    end
  end
  if not waiting then
    return granted(grant(token, ttl, 'held', channel, label, now), tonumber(ttl))
  end
  join_queue()
  local head, fence = hand_over(token, push_limit, deaf, now)
  if head == token then
    return granted(fence, tonumber(ttl))
  end
elseif queueing == '0' then
  return refuse('busy')
else
  if ticket == '0' and redis.call('ZCARD', QUEUE) >= max_waiters and not redis.call('ZSCORE', QUEUE, token) then
    drop_expired_waiters()
    if redis.call('ZCARD', QUEUE) >= max_waiters then
      return refuse('full')
    end
  end
  join_queue()
end
local who, age = holder_words()
return {'queued', ticket, redis.call('ZRANK', QUEUE, token), redis.call('PTTL', LOCK), who, age, digits(now)}
