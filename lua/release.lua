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
--
-- Returns one of
--   {'released', backlog_us}
--   {'not_held', backlog_us}
--   {'held_by_another', backlog_us}   also when the fence is not the current one
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
if not grant or string.sub(grant, 1, #head) ~= head then
  -- An owner that waits and releases does not want the lock any more.
  local record = ARGV[4] ~= '' and ARGV[6] == '' and redis.call('HGET', TICKETS, head)
  if record then
    redis.call('ZREM', LINE, head)
    redis.call('HDEL', TICKETS, head)
    redis.call('ZREM', KEPT, head)
    redis.call('ZREM', WAITING, string.match(record, '^[^\n]*'))
  end
  return {grant and 'held_by_another' or 'not_held', backlog}
end
local fence, mark, attempt = string.match(grant, '^(%d+)\n(%??)([^\n]*)', #head + 1)
if ARGV[6] ~= '' and ARGV[6] ~= fence then
  return {'held_by_another', backlog}
end
if mark == '?' then
  -- Without an owner whoever asks is not the waiter, who has no answer yet, but
  -- somebody who held the lock before.
  if ARGV[4] == '' then
    return {'not_held', backlog}
  end
  redis.call('ZREM', WAITING, attempt)
end
redis.call('DEL', LOCK)
redis.call('ZREM', HELD, ARGV[5])
if redis.call('EXISTS', LINE) == 0 then
  return {'released', backlog}
end
