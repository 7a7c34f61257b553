-- The continuation of release.lua, with its local variables, KEYS[1...10], ARGV[1...6] and
-- returns. It adds a tombstone for a journaled grant, so that no recovery restores it,
-- and hands the lock over to the first queued request.
if until_ms ~= '' then
  add_tombstone(now, holder_prefix, ARGV[2], fence, until_ms)
end
local _, is_unfinished = hand_over(now)
return {'released', backlog, fence, until_ms ~= '' and until_ms or '0', is_unfinished and '1' or '', acquirer}
