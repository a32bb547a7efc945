-- May this id see the record? Its proof is the id's longer digest, behind 'p:' when the record's name was made of the
-- id, 's:' when regenerate() gave it out. Not admitted: an id that was replaced and whose grace is over, or that was
-- never given out; one that only happens to have the same (short) record name; where there is no record yet, an id that
-- regenerate() gave out, which never begins a session of its own.
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

-- What an id that is not admitted is told: 'dead' where ids have been replaced.
local function not_admitted(id, otherwise)
  return id and string.sub(id, 1, 2) == 's:' and 'dead' or otherwise
end
