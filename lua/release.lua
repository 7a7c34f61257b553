-- Releases a lock for its holder: compares, and deletes. release_slow.lua is the
-- continuation of this file in the same script: it handles locks with a queue, grants
-- with a journal row, and refusals.
--
-- KEYS[1...10], or the first four, as in keys.lua
-- ARGV[1] holder_prefix: as in acquire.lua
-- ARGV[2] lock_key: the member of `held`
-- ARGV[3] fence: the fence of the grant to release, or '' for the current one
-- ARGV[4] deadline_us: the script changes nothing after this time, so that a delayed
--         release cannot end a newer grant of the same holder
-- ARGV[5] interval_us, ARGV[6] burst_us: the rate; omitted when already paid
--
-- Returns one of
--   {'released', backlog_us, fence, until_ms, unfinished, acquirer}
--                               until_ms: the latest expiry in the journal row of the
--                               grant, which the server must end; '0' without a row.
--                               unfinished: '1' when the server must call poll_queue.lua
--                               to finish the hand-over, see 'busy' in acquire.lua.
--                               acquirer: the token that acquired the lock, as in the
--                               grant
--   {'not_held', backlog_us}
--   {'held_by_another', backlog_us}   also when the fence is not the current one.
--                               Both also return fence and until_ms of the account's
--                               last grant of the lock, if its end may lack a journal
--                               row: the server must record it
--   {'unsettled', backlog_us}   as in heartbeat.lua
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
--   {'too_few_keys', '0'}
-- backlog_us: the time until the account's rate is unused again, '0' when already paid.
local now = time_us()
if now > tonumber(ARGV[4]) then
  return {'late', '0'}
end

local backlog, refusal = pay(BUCKET, now, ARGV[5], ARGV[6])
if refusal then
  return refusal
end

local holder_prefix = ARGV[1]
local grant = redis.call('GET', LOCK)
local fence, until_ms, mark, attempt, tail, reason, _
if grant and string.sub(grant, 1, #holder_prefix) == holder_prefix then
  fence, _, until_ms, mark, attempt, tail = read_grant(grant, #holder_prefix + 1)
end
-- safeguard: ClosedIsUnsettled
if is_closed(redis.call('GET', CLOCK)) then
  return {'unsettled', backlog}
end
-- safeguard end
local has_queue = redis.call('EXISTS', QUEUE) == 1
local has_owner = string.sub(holder_prefix, -2) ~= '\n\n'
-- In a recovery, an owner that holds the lock can be in the queue, too: an acquire of its
-- own lock waits then.
local may_wait = has_owner and ARGV[3] == '' and (not fence or mark == '?' or has_queue)
if not ENTRIES and (has_queue or may_wait or mark == '?' or (until_ms or '') ~= '') then
  return {'too_few_keys', '0'}
end
if may_wait then
  -- The release of an owner that waits cancels its queued request.
  local fields = redis.call('HGET', ENTRIES, holder_prefix)
  local waiting, pod, position, metadata = string.match(fields or '', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
  if waiting then
    redis.call('ZREM', QUEUE, holder_prefix)
    redis.call('ZREM', RESERVED, holder_prefix)
    redis.call('ZREM', WAITING, waiting)
    if position == '' or mark == '?' then
      -- The request is open: 'x' prevents that it returns to the queue.
      redis.call('HSET', ENTRIES, holder_prefix, table.concat({waiting, pod, 'x', metadata}, '\n'))
      redis.pcall('PUBLISH', pod, waiting)
    else
      redis.call('HDEL', ENTRIES, holder_prefix)
    end
  end
end
if not fence then
  reason = grant and 'held_by_another' or 'not_held'
elseif ARGV[3] ~= '' and ARGV[3] ~= fence then
  reason = 'held_by_another'
elseif (mark == '?' and not has_owner) or mark == '#' then
  -- '?' without an owner: the queued request has no answer yet, so this release is one of
  -- an earlier holder. '#': the grant is broken.
  reason = 'not_held'
end
if reason then
  --@off ClosedIsUnsettled: if is_closed(redis.call('GET', CLOCK)) then return {'unsettled', backlog} end
  --@off EndTakenOver: return {reason, backlog}
  -- safeguard: EndTakenOver
  if not ENTRIES then
    return {'too_few_keys', '0'}
  end
  -- safeguard end
else
  if mark == '?' then
    redis.call('ZREM', WAITING, attempt)
  end
  redis.call('DEL', LOCK)
  redis.call('ZREM', HELD, ARGV[2])
end
local acquirer = string.match(tail or '', '^[^\n]*\n([^\n]*)') or ''
if not reason and not has_queue and until_ms == '' then
  return {'released', backlog, fence, '0', '', acquirer}
end
