-- Lists tombstones: ended grants whose journal row may lack the end.
--
-- KEYS[1] ended: as in keys.lua
-- ARGV[1] limit: the maximum number of tombstones
--
-- Returns {'found', until_ms, tombstone, until_ms, tombstone...}   as in `ended`
local found = {'found'}
local ended = redis.call('ZRANGE', KEYS[1], 0, format_int(tonumber(ARGV[1]) - 1), 'WITHSCORES')
for at = 1, #ended, 2 do
  found[#found + 1] = ended[at + 1]
  found[#found + 1] = ended[at]
end
return found
