-- May this id see the record? Its proof is 'p:' and the record's own name, or after regenerate() 's:' and the digest
-- of a newer id. Not admitted: an id that was replaced and whose grace is over, or that was never given out; an id that
-- regenerate() gave out never begins a session of its own.
local function admitted(proof, id, old, now)
  if not id then
    return string.sub(proof, 1, 2) == 'p:'
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
