-- The rest of release.lua, with its KEYS[1...10], ARGV[1...6] and returns: the lock
-- goes to the first in line, and no recovery gives it back to the former holder.
if until_ms ~= '' then
  end_grant(now, head, ARGV[2], fence, until_ms)
end
local _, is_unfinished = hand_over(now)
return {'released', backlog, fence, until_ms ~= '' and until_ms or '0', is_unfinished and '1' or '', acquirer}
