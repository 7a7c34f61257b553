-- Releases a lock for its holder: compares, and deletes. Where somebody waits it
-- goes on in next.lua, which hands the lock over.
--
-- KEYS[1...9] as in keys.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
-- ARGV[3] account, ARGV[4] owner: who asks; the owner is '' for none
-- ARGV[5] place: what stands in `held`
-- ARGV[6] fence: that of the grant to release, or '' for whichever is current
-- ARGV[7] deadline_us: the time after which nothing may be done any more, lest a
--         release that was held up takes away a newer grant of the same holder
-- ARGV[8] '1' when it matters how long the lease would have lasted, '' if not
--
-- Returns one of
--   {'released', backlog_us, fence, rest_ms}   rest_ms: of the lease, '0' unasked
--   {'not_held', backlog_us}
--   {'held_by_another', backlog_us}   also when the fence is not the current one
--   {'unsettled', backlog_us}   as in heartbeat.lua
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
-- where backlog_us is how far the bucket's time lies ahead, '0' when paid.
local now = time_us()
if now > tonumber(ARGV[7]) then
  return {'late', '0'}
end

local backlog, refusal = pay(BUCKET, now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end

local head = ARGV[3] .. '\n' .. ARGV[4] .. '\n'
local grant = redis.call('GET', LOCK)
local fence, mark, attempt, reason
if grant and string.sub(grant, 1, #head) == head then
  fence, mark, attempt = string.match(grant, '^(%d+)\n(%??)([^\n]*)', #head + 1)
end
if not fence then
  reason = grant and 'held_by_another' or 'not_held'
  -- An owner that waits and releases does not want the lock any more.
  local record = ARGV[4] ~= '' and ARGV[6] == '' and redis.call('HGET', TICKETS, head)
  if record then
    redis.call('ZREM', LINE, head)
    redis.call('HDEL', TICKETS, head)
    redis.call('ZREM', KEPT, head)
    redis.call('ZREM', WAITING, string.match(record, '^[^\n]*'))
  end
elseif ARGV[6] ~= '' and ARGV[6] ~= fence then
  reason = 'held_by_another'
elseif mark == '?' and ARGV[4] == '' then
  -- Without an owner whoever asks is not the waiter, who has no answer yet, but
  -- somebody who held the lock before.
  reason = 'not_held'
end
if reason then
  -- What a recovery puts back is not there before.
  local is_closed = string.find(redis.call('GET', CLOCK) or 'closed', 'closed', 1, true)
  return {is_closed and 'unsettled' or reason, backlog}
end
if mark == '?' then
  redis.call('ZREM', WAITING, attempt)
end

local rest_ms = word(ARGV[8] == '1' and redis.call('PTTL', LOCK) or 0)
redis.call('DEL', LOCK)
redis.call('ZREM', HELD, ARGV[5])
if redis.call('EXISTS', LINE) == 0 then
  return {'released', backlog, fence, rest_ms}
end
