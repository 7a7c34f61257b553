-- The rest of release.lua, with its keys, arguments and returns: the lock goes to
-- the first in line.
hand_over(now)
return {'released', backlog, fence, rest_ms}
