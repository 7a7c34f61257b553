-- Acquires a lock for a lease, or queues the request, or returns the current grant.
-- acquire_slow.lua is the continuation of this file in the same script: it handles
-- waiting requests, repeated requests of an owner, and recoveries. A free lock with
-- an empty queue is granted here, before Lua defines the functions of the queue.
--
-- KEYS[1...10], or the first four, as in keys.lua
-- ARGV[1] holder_prefix: the account and the owner ('' for none) of the request, each
--         followed by a line break. A grant begins with these bytes
-- ARGV[2] lock_key: namespace and name, the member of `held`
-- ARGV[3] lease_ms
-- ARGV[4] attempt: the id of this attempt, by which revert.lua can revert it
-- ARGV[5] deadline_us: the script changes nothing after this time
-- ARGV[6] held_max: the account's limit of held locks
-- ARGV[7] metadata: the fields of a grant after its time: '@' and the lease in ms if
--         the client requested one, then token, note and info, each after a line break
-- and, omitted with four keys,
-- ARGV[8] epoch_us: the time of the last recovery that the server has seen
-- ARGV[9] wait_ms: the maximum time in the queue, '0' to return at once
-- ARGV[10] pod: the channel to notify at the hand-over
-- ARGV[11] waiting_max: the account's limit of queued requests
-- ARGV[12] '1' when the journal records grants of this lease, '' otherwise
-- ARGV[13] interval_us, ARGV[14] burst_us: the rate; omitted when already paid
--
-- Returns one of
--   {'granted', backlog_us, fence, expires_ms}
--   {'again', backlog_us, fence, expires_ms}   the owner already held the lock.
--       When the journal must record the grant before the server answers, both
--       also return: seq, '1' if shorten.lua must follow ('' otherwise), the ended
--       former fence ('' for none), and the grant as in `lock`
--   {'held', backlog_us, ttl_ms, expires_ms, grant}   grant: the value of `lock`
--   {'queued', backlog_us, ttl_ms, expires_ms, grant}   queued
--   {'recovering', backlog_us, remaining_ms}   queued, if wait_ms is not '0'
--   {'over_quota', backlog_us, held}
--   {'too_many_waiting', backlog_us, waiting}
--   {'cancelled', backlog_us}   the owner's release has cancelled this request
--   {'busy', backlog_us}   call again: the script has removed its limit of entries of
--       dead servers from the queue, and more entries may follow
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
--   {'too_few_keys', '0'}
-- backlog_us: the time until the account's rate is unused again, '0' when already paid.
local now = time_us()
if now > tonumber(ARGV[5]) then
  return {'late', '0'}
end

local backlog, refusal = pay(BUCKET, now, ARGV[13], ARGV[14])
if refusal then
  return refusal
end

local now_ms = math.floor(now / 1000)
local expires_ms = format_int(now_ms + tonumber(ARGV[3]))
local holder_prefix = ARGV[1]

-- One EXISTS detects a free lock with an empty queue.
local has_entry = ENTRIES and redis.call('HGET', ENTRIES, holder_prefix)
if redis.call('EXISTS', LOCK, QUEUE) == 0 and not has_entry then
  local held, fence, change = make_grant(now, expires_ms, holder_prefix, nil, ARGV[4], ARGV[7],
    ARGV[2], ARGV[3], tonumber(ARGV[6]), ARGV[12] == '1')
  if held then
    return {'over_quota', backlog, held}
  end
  if fence then
    return {'granted', backlog, fence, expires_ms, unpack(change)}
  end
end
local grant = redis.call('GET', LOCK)
local wait_ms = tonumber(ARGV[9] or 0)
local is_other = grant and string.sub(grant, 1, #holder_prefix) ~= holder_prefix
if grant and wait_ms == 0 and (is_other or string.sub(holder_prefix, -2) == '\n\n') then
  local ttl_ms = redis.call('PTTL', LOCK)
  return {'held', backlog, format_int(ttl_ms), format_int(now_ms + ttl_ms), grant}
end
if not ENTRIES then
  return {'too_few_keys', '0'}
end
