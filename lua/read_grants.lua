-- Reads the grants of locks in an account's index, and removes locks from the index
-- that the account does not hold.
--
-- KEYS[1] held, KEYS[2...] the locks: as in keys.lua
-- ARGV[1] account, ARGV[2...] the lock keys of these locks
--
-- Returns {'found', ttl_ms, expires_ms, grant, ttl_ms...}, three values for each lock; the
-- grant is '' for a lock that the account does not hold
local now_ms = math.floor(time_us() / 1000)
local found = {'found'}
for at = 2, #KEYS do
  local grant = redis.call('GET', KEYS[at])
  local ttl_ms = math.max(redis.call('PTTL', KEYS[at]), 0)
  if not grant or string.sub(grant, 1, #ARGV[1] + 1) ~= ARGV[1] .. '\n' then
    redis.call('ZREM', KEYS[1], ARGV[at])
    grant = ''
  end
  found[#found + 1] = format_int(ttl_ms)
  found[#found + 1] = format_int(now_ms + ttl_ms)
  found[#found + 1] = grant
end
return found
