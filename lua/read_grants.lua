-- Reads the grants of locks that an account is thought to hold, and takes from
-- its index those that it does not.
--
-- KEYS[1] held, KEYS[2...] the locks: as in keys.lua
-- ARGV[1] account, ARGV[2...] the places of these locks
--
-- Returns {'found', rest_ms, expires_ms, grant, rest_ms...}, three words for each
-- lock; the grant is '' for one that the account does not hold
local now_ms = math.floor(time_us() / 1000)
local found = {'found'}
for at = 2, #KEYS do
  local grant = redis.call('GET', KEYS[at])
  local rest_ms = math.max(redis.call('PTTL', KEYS[at]), 0)
  if not grant or string.sub(grant, 1, #ARGV[1] + 1) ~= ARGV[1] .. '\n' then
    redis.call('ZREM', KEYS[1], ARGV[at])
    grant = ''
  end
  found[#found + 1] = word(rest_ms)
  found[#found + 1] = word(now_ms + rest_ms)
  found[#found + 1] = grant
end
return found
