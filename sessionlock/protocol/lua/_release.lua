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

-- Others may wait: the lock goes to the next of them. `state`: #state as it is now; false: not known.
local function hand_on(reply, more, state)
  local now, now_digits = server_time()
  local last = parts_of(state or call('HGET', SESSION, '#state'))
  local idle, refresh, carries, deaf, channel = string.match(more, '^(%d+) %d+ (%d+) %d+ %S+ (%d) (%d) (%S+)')
  if last.created then
    look_after_life(last, tonumber(idle), tonumber(refresh), now)
  end
  local _, rest, handed = hand_over(nil, channel, carries == '1', deaf == '1', now, now_digits, last)
  reply[#reply + 1] = handed or rest == 'more' and rest or ''
  return reply
end
