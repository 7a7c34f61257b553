-- Releases a lock for its holder: compares, and deletes. Where somebody waits, or
-- the grant has a journal row, it goes on in next.lua.
--
-- KEYS[1...10], or the first four, as in keys.lua
-- ARGV[1] head: who asks, as in acquire.lua
-- ARGV[2] place: what stands in `held`
-- ARGV[3] fence: that of the grant to release, or '' for whichever is current
-- ARGV[4] deadline_us: the time after which nothing may be done any more, lest a
--         release that was held up takes away a newer grant of the same holder
-- ARGV[5] interval_us, ARGV[6] burst_us: the rate; left out when already paid
--
-- Returns one of
--   {'released', backlog_us, fence, until_ms}   until_ms: the latest expiry in its
--                               journal row, which is to end; '0' without one
--   {'not_held', backlog_us}
--   {'held_by_another', backlog_us}   also when the fence is not the current one
--   {'unsettled', backlog_us}   as in heartbeat.lua
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
--   {'too_few_keys', '0'}
-- where backlog_us is how far the bucket's time lies ahead, '0' when paid.
local now = time_us()
if now > tonumber(ARGV[4]) then
  return {'late', '0'}
end

local backlog, refusal = pay(BUCKET, now, ARGV[5], ARGV[6])
if refusal then
  return refusal
end

local head = ARGV[1]
local grant = redis.call('GET', LOCK)
local fence, until_ms, mark, attempt, reason, _
if grant and string.sub(grant, 1, #head) == head then
  fence, _, until_ms, mark, attempt = read_grant(grant, #head + 1)
end
-- mend: ClosedIsUnsettled
if is_closed(redis.call('GET', CLOCK)) then
  return {'unsettled', backlog}
end
-- mend end
local has_line = redis.call('EXISTS', LINE) == 1
if not TICKETS and (has_line or mark == '?' or (until_ms or '') ~= '') then
  return {'too_few_keys', '0'}
end
if not fence then
  reason = grant and 'held_by_another' or 'not_held'
  -- An owner that waits and releases does not want the lock any more.
  local is_own = has_line and ARGV[3] == '' and string.sub(head, -2) ~= '\n\n'
  local record = is_own and redis.call('HGET', TICKETS, head)
  if record then
    redis.call('ZREM', LINE, head)
    redis.call('HDEL', TICKETS, head)
    redis.call('ZREM', KEPT, head)
    redis.call('ZREM', WAITING, string.match(record, '^[^\n]*'))
  end
elseif ARGV[3] ~= '' and ARGV[3] ~= fence then
  reason = 'held_by_another'
elseif mark == '?' and string.sub(head, -2) == '\n\n' then
  -- Without an owner whoever asks is not the waiter, who has no answer yet, but
  -- somebody who held the lock before.
  reason = 'not_held'
elseif mark == '#' then
  reason = 'not_held'
end
if reason then
  --@off ClosedIsUnsettled: if is_closed(redis.call('GET', CLOCK)) then return {'unsettled', backlog} end
  return {reason, backlog}
end

if mark == '?' then
  redis.call('ZREM', WAITING, attempt)
end
redis.call('DEL', LOCK)
redis.call('ZREM', HELD, ARGV[2])
if not has_line and until_ms == '' then
  return {'released', backlog, fence, '0'}
end
