-- Reads an account's activity in the last hour.
--
-- KEYS[1] activity: as in write_history.lua
--
-- Returns {'found', minute, counts...}   the current minute since 1970, and the sixty
-- fields of the hash, for the minutes 0 to 59 of an hour; '' for an absent field
local found = {'found', format_int(math.floor(time_us() / 60000000))}
for at = 0, 59 do
  found[at + 3] = redis.call('HGET', KEYS[1], format_int(at)) or ''
end
return found
