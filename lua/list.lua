-- Lists the lock keys that an account holds, by their expiry.
--
-- KEYS[1] held, KEYS[2] bucket: as in keys.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
-- ARGV[3] namespace: the namespace to list; '' for all
-- ARGV[4] prefix: the prefix of the names to list
-- ARGV[5] limit: the maximum number of lock keys to return
-- ARGV[6] scan_max: the maximum number of lock keys to examine
-- ARGV[7] after_ms, ARGV[8] after_key: the end of the previous page; '0' and '' for the
--         first page
--
-- Returns one of
--   {'found', backlog_us, next_ms, next_key, ms, lock_key, ms, lock_key...}   ms: the
--            expiry; next_ms and next_key: the end of this page, '' for the last page
--   {'rate_limited', backlog_us, retry_after_us}
local now = time_us()
local backlog, refusal = pay(KEYS[2], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end
-- Removes expired lock keys, at most scan_max: an index can have many.
local now_ms = math.floor(now / 1000)
for _, expired in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', format_int(now_ms - 1), 'LIMIT', '0', ARGV[6])) do
  redis.call('ZREM', KEYS[1], expired)
end

local namespace, prefix, limit, scan_max = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local found = {'found', backlog, '', ''}
local from_ms = format_int(math.max(tonumber(ARGV[7]), now_ms))
local scanned = redis.call('ZRANGEBYSCORE', KEYS[1], from_ms, '+inf', 'WITHSCORES', 'LIMIT', '0', ARGV[6])
local is_last = #scanned < 2 * scan_max

-- Compares byte by byte, as Redis orders the index: Lua compares by the locale.
local function is_after(lock_key, other)
  for at = 1, #lock_key do
    local byte, other_byte = string.byte(lock_key, at), string.byte(other, at) or -1
    if byte ~= other_byte then
      return byte > other_byte
    end
  end
  return false
end

-- Skips lock keys of the previous page with the same expiry as its last one, which may
-- be in another index.
local first = 1
while scanned[first + 1] == ARGV[7] and not is_after(scanned[first], ARGV[8]) do
  first = first + 2
end
for at = first, #scanned, 2 do
  local lock_key = scanned[at]
  found[3], found[4] = scanned[at + 1], lock_key
  local slash = string.find(lock_key, '/', 1, true)
  local is_in = namespace == '' or namespace == string.sub(lock_key, 1, slash - 1)
  if is_in and string.sub(lock_key, slash + 1, slash + #prefix) == prefix then
    found[#found + 1] = scanned[at + 1]
    found[#found + 1] = lock_key
    if #found == 4 + 2 * limit then
      is_last = is_last and at + 2 > #scanned
      break
    end
  end
end
if is_last then
  found[3], found[4] = '', ''
end
return found
