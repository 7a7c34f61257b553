-- Renews the lease of a lock for its holder.
--
-- KEYS[1] lock, KEYS[2] held, KEYS[3] clock, KEYS[4] bucket: as in keys.lua
-- ARGV[1] head: who asks, as in acquire.lua
-- ARGV[2] place: what stands in `held`
-- ARGV[3] lease_ms
-- ARGV[4] fence: that of the grant to renew, or '' for whichever is current
-- ARGV[5] deadline_us: the time after which nothing may be done any more, lest a
--         heartbeat that was held up makes a longer lease shorter
-- ARGV[6] '1' to be told the grant, '' not to be
-- ARGV[7] epoch_us: as in acquire.lua
-- ARGV[8] interval_us, ARGV[9] burst_us: the rate; left out when already paid, and
--         the bucket with it
--
-- Returns one of
--   {'renewed', backlog_us, fence, expires_ms, grant}   grant: as in `lock`, or ''
--   {'not_held', backlog_us}
--   {'held_by_another', backlog_us}   also when the fence is not the current one
--   {'unsettled', backlog_us}   the holder may have it, and it is not back yet
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
-- where backlog_us is how far the bucket's time lies ahead, '0' when paid.
local now = time_us()
if now > tonumber(ARGV[5]) then
  return {'late', '0'}
end
local backlog, refusal = pay(KEYS[4], now, ARGV[8], ARGV[9])
if refusal then
  return refusal
end

local grant = redis.call('GET', KEYS[1])
local head = ARGV[1]
local fence, mark, attempt, reason
if grant and string.sub(grant, 1, #head) == head then
  fence, mark, attempt = string.match(grant, '^(%d+)\n(%??)([^\n]*)', #head + 1)
end
if not grant then
  reason = 'not_held'
elseif not fence or (ARGV[4] ~= '' and ARGV[4] ~= fence) then
  reason = 'held_by_another'
elseif mark == '?' then
  -- What waits to be collected is held by nobody yet.
  reason = 'not_held'
end
if reason then
  -- What a recovery puts back is not there before.
  local is_closed = string.find(redis.call('GET', KEYS[3]) or 'closed', 'closed', 1, true)
  return {is_closed and 'unsettled' or reason, backlog}
end

-- PEXPIRE stands first: with its memory full Redis lets a script go on that has
-- begun to write, but not begin with a write that may need memory.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
-- The holder relies on the grant: the attempt that made it may not take it back
-- any more. Where Redis may have forgotten what came after the grant, it is
-- marked as held since, see hold_on.lua.
local known = tonumber(fence) < tonumber(ARGV[7]) and '!' .. ARGV[7] or ''
if attempt ~= known then
  local rest = string.sub(grant, #head + #fence + 1 + #attempt + 1)
  redis.call('SET', KEYS[1], head .. fence .. '\n' .. known .. rest, 'PX', ARGV[3])
end
local expires_ms = word(math.floor(now / 1000) + tonumber(ARGV[3]))
redis.call('ZADD', KEYS[2], 'XX', expires_ms, ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3], 'GT')
return {'renewed', backlog, fence, expires_ms, ARGV[6] == '1' and grant or ''}
