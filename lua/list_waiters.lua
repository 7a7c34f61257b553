-- Lists the queued requests of several locks.
--
-- KEYS[1], KEYS[2] queue and entries of the first lock, KEYS[3], KEYS[4] those of
-- the second, and so on: as in keys.lua
-- ARGV[1] waiters_max: the maximum number of listed requests per lock
--
-- Returns {'found', waiting, listed, entry, fields, ...} for each lock: the number of
-- queued requests, the number of listed ones, and for each of these the entry and its
-- fields as in `entries`, '' when they are missing
local found = {'found'}
for at = 1, #KEYS, 2 do
  local entries = redis.call('ZRANGE', KEYS[at], 0, format_int(ARGV[1] - 1))
  found[#found + 1] = format_int(redis.call('ZCARD', KEYS[at]))
  found[#found + 1] = format_int(#entries)
  for _, entry in ipairs(entries) do
    found[#found + 1] = entry
    found[#found + 1] = redis.call('HGET', KEYS[at + 1], entry) or ''
  end
end
return found
