-- May this id see the record? Its proof is 'p:' and the record's own name, or after regenerate() 's:' and the digest
-- of a newer id. Not admitted: an id that was replaced and whose grace is over, or that was never given out.
local function admitted(proof, id, old, created, now)
  if not id then
    return string.sub(proof, 1, 2) == 'p:' or not created
  end
  if id == proof then
    return true
  end
  for other, deadline in string.gmatch(old or '', '(%S+)@(%d+)') do
    if other == proof and tonumber(deadline) > now then
      return true
    end
  end
  return false
end

-- A new record under an id that regenerate() once gave out (the old record is gone) belongs to that id only.
local function keep_id(proof, id)
  if not id and string.sub(proof, 1, 2) == 's:' then
    call('HSET', SESSION, '#id', proof)
    keep_mortal(SHELL_MS)
  end
end
