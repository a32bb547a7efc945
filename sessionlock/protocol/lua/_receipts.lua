-- Receipts: what has finished changes nothing when it is asked for again.

local RECEIPT_MS = 60000 -- half of it is longer than any client repeats a call whose reply was lost
local MOST_RECEIPTS = 4096

local function finished(token, commit)
  if commit and string.sub(commit, 1, #token + 1) == token .. ' ' then
    return true
  end
  return call('ZSCORE', RECEIPTS, token) ~= false
end

-- The last receipt is the field #commit; this makes room for another by putting it among the older ones, when it may
-- still be asked about. Quiet sessions never come here within the minute.
local function keep_receipt(commit, token, now)
  if not commit then
    return
  end
  local space = string.find(commit, ' ', 1, true) or 0
  local other, score = string.sub(commit, 1, space - 1), number_in(string.sub(commit, space + 1))
  if not score or other == token or score < now - RECEIPT_MS * 1000 then
    return
  end
  call('ZADD', RECEIPTS, digits(score), other)
  if call('PTTL', RECEIPTS) < RECEIPT_MS / 2 then
    call('PEXPIRE', RECEIPTS, RECEIPT_MS)
  end
  if score % 64 == 0 then
    call('ZREMRANGEBYRANK', RECEIPTS, 0, -MOST_RECEIPTS - 1)
  end
end

-- Why a call that needs the lock is refused.
local function not_holder(token)
  local state = call('HMGET', SESSION, '#commit', '#version', '#destroyed', '#fence')
  if finished(token, state[1]) then
    return {'already', state[2] or '0'}
  end
  if state[3] then
    return {'destroyed'}
  end
  return {'lost', state[4] or '0'}
end
