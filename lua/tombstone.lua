-- What it is to end a grant before its lease has lapsed. It stands behind keys.lua.

-- How many ended grants are kept in mind for a recovery. Beyond that the journal
-- alone knows of them.
local ENDED_MAX = 100000

-- Notes that a grant with a journal row has ended, until the journal has recorded
-- it: whichever server finds it here records it, also when the one that ended it
-- is gone. Something must have been deleted before: then Redis lets this be
-- written with its memory full.
local function end_grant(now, head, place, fence, until_ms)
  local now_ms = math.floor(now / 1000)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', ENDED, '-inf', word(now_ms), 'LIMIT', '0', '20')) do
    redis.call('ZREM', ENDED, gone)
  end
  local rest_ms = tonumber(until_ms) - now_ms
  if rest_ms <= 0 or redis.call('ZCARD', ENDED) >= ENDED_MAX then
    return
  end
  redis.call('ZADD', ENDED, until_ms, fence .. ' ' .. string.match(head, '^[^\n]*') .. ' ' .. place)
  if redis.call('PTTL', ENDED) < rest_ms then
    redis.call('PEXPIRE', ENDED, word(rest_ms))
  end
end
