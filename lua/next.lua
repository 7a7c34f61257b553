-- The rest of release.lua, with its KEYS[1...10], ARGV[1...7] and returns: the lock
-- goes to the first in line, and not back to who released it.
if may_return then
  end_grant(ARGV[2], fence, rest_ms)
end
hand_over(now)
return {'released', backlog, fence, word(rest_ms)}
