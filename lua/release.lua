-- Releases a lock for its holder: compares, and deletes. Where somebody waits, or
-- the grant has a journal row, it goes on in release_slow.lua.
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
--   {'released', backlog_us, fence, until_ms, unfinished, acquirer}   until_ms: the latest
--                               expiry in its journal row, which is to end; '0' without
--                               one. unfinished: '1' when poll_queue.lua is to go on, as the
--                               queue has more than one script takes out of it.
--                               acquirer: the token that had acquired it, as in the grant
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
local fence, until_ms, mark, attempt, rest, reason, _
if grant and string.sub(grant, 1, #head) == head then
  fence, _, until_ms, mark, attempt, rest = read_grant(grant, #head + 1)
end
-- mend: ClosedIsUnsettled
if is_closed(redis.call('GET', CLOCK)) then
  return {'unsettled', backlog}
end
-- mend end
local has_line = redis.call('EXISTS', LINE) == 1
local has_owner = string.sub(head, -2) ~= '\n\n'
-- In a recovery an owner that holds the lock may have asked for it again, and stand in line.
local may_wait = has_owner and ARGV[3] == '' and (not fence or mark == '?' or has_line)
if not TICKETS and (has_line or may_wait or mark == '?' or (until_ms or '') ~= '') then
  return {'too_few_keys', '0'}
end
if may_wait then
  -- An owner that waits and releases does not want the lock any more.
  local record = redis.call('HGET', TICKETS, head)
  local attempt, pod, position, about = string.match(record or '', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
  if attempt then
    redis.call('ZREM', LINE, head)
    redis.call('ZREM', KEPT, head)
    redis.call('ZREM', WAITING, attempt)
    if position == '' or mark == '?' then
      -- Its request is open, and must not come back.
      redis.call('HSET', TICKETS, head, table.concat({attempt, pod, 'x', about}, '\n'))
      redis.pcall('PUBLISH', pod, attempt)
    else
      redis.call('HDEL', TICKETS, head)
    end
  end
end
if not fence then
  reason = grant and 'held_by_another' or 'not_held'
elseif ARGV[3] ~= '' and ARGV[3] ~= fence then
  reason = 'held_by_another'
elseif mark == '?' and not has_owner then
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
local acquirer = string.match(rest, '^[^\n]*\n([^\n]*)') or ''
if not has_line and until_ms == '' then
  return {'released', backlog, fence, '0', '', acquirer}
end
