-- Breaks an account's grant of any owner, and hands the lock over to the first
-- queued request.
--
-- KEYS[1...10] as in keys.lua; no rate is charged
-- ARGV[1] account: the account that must hold the lock
-- ARGV[2] lock_key: the member of `held`
-- ARGV[3] fence: the fence of the grant to break
-- ARGV[4] deadline_us: the script changes nothing after this time
--
-- Returns one of
--   {'broken', until_ms}   until_ms: the latest expiry in the journal row of the grant.
--                  The lock becomes free when the journal has recorded the end and
--                  settle_end.lua has run. '0' for a grant without a row: the lock
--                  is free
--   {'unsettled'}  as in heartbeat.lua
--   {'not_held'}
--   {'held_by_another'}   also when the fence is not the current one
--   {'late'}
local now = time_us()
if now > tonumber(ARGV[4]) then
  return {'late'}
end
local grant = redis.call('GET', LOCK)
if not grant then
  return {'not_held'}
end
if is_closed(redis.call('GET', CLOCK)) then
  return {'unsettled'}
end
local holder_prefix, account = string.match(grant, '^(([^\n]*)\n[^\n]*\n)')
local fence, seq, until_ms, mark, _, tail = read_grant(grant, #holder_prefix + 1)
if account ~= ARGV[1] or fence ~= ARGV[3] then
  return {'held_by_another'}
end
-- safeguard: BreakJournaled
if until_ms ~= '' then
  -- The holder does not know of the break. If the journal restored the grant after a
  -- loss of Redis, the lock could have two holders: so the lock stays closed until the
  -- journal has recorded the end.
  if mark ~= '#' then
    local ttl_ms = format_int(redis.call('PTTL', LOCK))
    redis.call('PEXPIRE', LOCK, ttl_ms)
    grant = holder_prefix .. fence .. ' ' .. seq .. ' ' .. until_ms .. '\n#\n' .. tail
    redis.call('SET', LOCK, grant, 'PX', ttl_ms)
    add_tombstone(now, holder_prefix, ARGV[2], fence, until_ms)
  end
  return {'broken', until_ms}
end
-- safeguard end
redis.call('DEL', LOCK)
redis.call('ZREM', HELD, ARGV[2])
--@off BreakJournaled: if until_ms ~= '' then add_tombstone(now, holder_prefix, ARGV[2], fence, until_ms) hand_over(now) return {'broken', until_ms} end
hand_over(now)
return {'broken', '0'}
