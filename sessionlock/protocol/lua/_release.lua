-- What release does where something is not as it should be.

-- The lock is not the token's any more. It is over: a late acquire of the token must not take it.
local function too_late(token, fence, low)
  local answer = not_holder(fence, token)
  if answer[1] == 'lost' then
    call('HSET', SESSION, '#done', finish(token, low, call('HGET', SESSION, '#done'), LOST))
    if call('HEXISTS', SESSION, '#created') == 0 then
      keep_mortal(SHELL_MS)
    end
  end
  return answer
end

-- The token has the lock, and the session has another fence than it was granted.
local function not_as_granted(token, fence, state)
  local current = number_in(state[FENCE]) or 0
  if current < tonumber(fence) then
    return nil -- all was lost but the lock; what came to be since is not what this holder has read
  elseif call('HGET', SESSION, '#refused') == token .. ' ' .. state[FENCE] then
    return {'conflict', state[VERSION] or '0', {}, state[FENCE]} -- as it was told; that reply was lost
  end
  return {'lost', state[FENCE]}
end

-- A refused save must not be carried out when it comes once more, and late: from now on the holder has another fence.
local function with_next_fence(refusal, token, fence)
  local now = server_time()
  refusal[4] = digits(next_number(fence, now, 'FENCE'))
  call('HSET', SESSION, '#fence', refusal[4], '#refused', token .. ' ' .. refusal[4])
  return refusal
end
