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
--   {'found', backlog_us, next_ms, next_place, ms, place, ms, place...}   with the
--            time at which each lapses; next_ms is '' at the end
--   {'rate_limited', backlog_us, retry_after_us}
local now = time_us()
local backlog, refusal = pay(KEYS[2], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end
-- Some that have lapsed are taken out of the index. All may be many.
local now_ms = math.floor(now / 1000)
for _, place in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', word(now_ms - 1), 'LIMIT', '0', ARGV[6])) do
  redis.call('ZREM', KEYS[1], place)
end

local namespace, prefix, limit, scan_max = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local found = {'found', backlog, '', ''}
local from_ms = word(math.max(tonumber(ARGV[7]), now_ms))
local seen = redis.call('ZRANGEBYSCORE', KEYS[1], from_ms, '+inf', 'WITHSCORES', 'LIMIT', '0', ARGV[6])
local is_all = #seen < 2 * scan_max

-- Byte by byte, as the index has them: Lua's own comparison goes by a language.
local function is_behind(place, other)
  for at = 1, #place do
    local byte, theirs = string.byte(place, at), string.byte(other, at) or -1
    if byte ~= theirs then
      return byte > theirs
    end
  end
  return false
end

-- Of those that lapse in the same millisecond as the last one seen, which need not
-- be in this index, some have been seen, too.
local first = 1
while seen[first + 1] == ARGV[7] and not is_behind(seen[first], ARGV[8]) do
  first = first + 2
end
for at = first, #seen, 2 do
  local place = seen[at]
  found[3], found[4] = seen[at + 1], place
  local slash = string.find(place, '/', 1, true)
  local is_in = namespace == '' or namespace == string.sub(place, 1, slash - 1)
  if is_in and string.sub(place, slash + 1, slash + #prefix) == prefix then
    found[#found + 1] = seen[at + 1]
    found[#found + 1] = place
    if #found == 4 + 2 * limit then
      is_all = is_all and at + 2 > #seen
      break
    end
  end
end
if is_all then
  found[3], found[4] = '', ''
end
return found
