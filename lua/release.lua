-- Releases a lock for its holder: compares, and deletes.
--
-- KEYS[1] lock, KEYS[2] held, KEYS[3] bucket: as in acquire.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
-- ARGV[3] account, ARGV[4] owner: who asks; the owner is '' for none
-- ARGV[5] place: what stands in `held`
-- ARGV[6] fence: that of the grant to release, or '' for whichever is current
-- ARGV[7] attempt: only what this attempt was granted, or '' for any
-- ARGV[8] deadline_us: the time after which nothing may be done any more, lest a
--         release that was held up takes away a newer grant of the same holder
--
-- Returns one of
--   {'released', backlog_us}
--   {'not_held', backlog_us}
--   {'held_by_another', backlog_us}   also when fence or attempt are not the current ones
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
-- where backlog_us is how far the bucket's time lies ahead, '0' when paid.
local now = time_us()
if now > tonumber(ARGV[8]) then
  return {'late', '0'}
end

local backlog, refusal = pay(KEYS[3], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end

local grant = redis.call('GET', KEYS[1])
if not grant then
  return {'not_held', backlog}
end
local holder = ARGV[3] .. '\n' .. ARGV[4] .. '\n'
if string.sub(grant, 1, #holder) ~= holder then
  return {'held_by_another', backlog}
end
local fence, attempt = string.match(grant, '^(%d+)\n([^\n]*)', #holder + 1)
if (ARGV[6] ~= '' and ARGV[6] ~= fence) or (ARGV[7] ~= '' and ARGV[7] ~= attempt) then
  return {'held_by_another', backlog}
end

redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[5])
return {'released', backlog}
