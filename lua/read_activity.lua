-- Reads what an account did in the last hour.
--
-- KEYS[1] activity: as in write_history.lua
--
-- Returns {'found', minute, counts...}   this minute since 1970, and sixty times
-- what write_history.lua keeps of a minute, that of each minute within the hour; '' for
-- none
local found = {'found', word(math.floor(time_us() / 60000000))}
for at = 0, 59 do
  found[at + 3] = redis.call('HGET', KEYS[1], word(at)) or ''
end
return found
