-- What it is to end a grant before its lease has lapsed. It stands behind keys.lua.

-- Notes that a grant has ended whose lease would have lasted for so long, where a
-- recovery may have read of it already and not have put it back yet. Something must
-- have been deleted before: then Redis lets this be written with its memory full.
local function end_grant(place, fence, rest_ms)
  if string.find(redis.call('GET', CLOCK) or 'closed', 'closed', 1, true) then
    redis.call('HSET', ENDED, place, fence)
    if redis.call('PTTL', ENDED) < rest_ms then
      redis.call('PEXPIRE', ENDED, word(rest_ms))
    end
  end
end
