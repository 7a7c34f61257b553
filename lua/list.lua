-- Finds places of locks that an account holds, those that lapse first first.
--
-- KEYS[1] held, KEYS[2] bucket: as in keys.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
-- ARGV[3] namespace: only in this one; '' for any
-- ARGV[4] prefix: what the name begins with
-- ARGV[5] limit: how many to find
-- ARGV[6] scan_max: how many to look at
-- ARGV[7] after_ms, ARGV[8] after_place: the last one seen; '0' and '' to begin
--
-- Returns one of
--   {'found', backlog_us, next_ms, next_place, place...}   next_ms is '' at the end
--   {'rate_limited', backlog_us, retry_after_us}
local now = time_us()
local backlog, refusal = pay(KEYS[2], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. word(math.floor(now / 1000)))

local namespace, prefix, limit, scan_max = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local found = {'found', backlog, '', ''}
local seen = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[7], '+inf', 'WITHSCORES', 'LIMIT', '0', ARGV[6])

-- The last one seen stands among those that lapse in the same millisecond, unless
-- it was renewed or released since; then some of these may be seen twice.
local first = 1
for at = 1, #seen, 2 do
  if seen[at] == ARGV[8] and seen[at + 1] == ARGV[7] then
    first = at + 2
  end
end
for at = first, #seen, 2 do
  local place = seen[at]
  found[3], found[4] = seen[at + 1], place
  local slash = string.find(place, '/', 1, true)
  local is_in = namespace == '' or namespace == string.sub(place, 1, slash - 1)
  if is_in and string.sub(place, slash + 1, slash + #prefix) == prefix then
    found[#found + 1] = place
    if #found == 4 + limit then
      return found
    end
  end
end
if #seen < 2 * scan_max then
  found[3], found[4] = '', ''
end
return found
