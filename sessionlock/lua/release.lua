-- Save what changed, give the lock up and hand it to the next live waiter: one step. Fenced: it takes effect only
-- while token holds the lock and no higher fence has been seen. Repeating it (lost reply) answers `already`.
--
-- KEYS  lock queue waiters session receipts
-- ARGV  token fence created idle_ms absolute_ms refresh_ms push_limit deaf [op field value base]...
-- reply saved version | clean
--       conflict version {field value ...}    nothing was changed and the lock is still held
--       gone | destroyed                      nothing was saved, the lock was given up
--       already version                       an earlier try of this very call did it
--       lost fence                            the lock is not ours any more; nothing was changed

local token, fence, created = ARGV[1], ARGV[2], ARGV[3]
local idle, absolute, refresh = ARGV[4], ARGV[5], tonumber(ARGV[6])
local push_limit, deaf = tonumber(ARGV[7]), ARGV[8]
local FIRST = 9

if redis.call('GET', LOCK) ~= token then
  return not_holder(token)
end
local seen = redis.call('HGET', SESSION, '#fence')
if seen and tonumber(seen) > tonumber(fence) then
  return {'lost', seen}
end

local now = server_time()
local reply = {'clean'}
if redis.call('HEXISTS', SESSION, '#destroyed') == 1 then
  reply = {'destroyed'}
elseif #ARGV >= FIRST then
  local refusal, version = commit_changes(FIRST, created, idle, absolute, now)
  if refusal and refusal[1] == 'conflict' then
    return refusal
  end
  reply = refusal or {'saved', digits(version)}
end
write_receipt(token, fence, now)
keep_mortal(SHELL_MS)
if redis.call('EXISTS', QUEUE) == 1 then
  touch(tonumber(idle), refresh, now)
end
hand_over(nil, push_limit, deaf, now)
return reply
