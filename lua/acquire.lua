-- Acquires a lock for a lease, stands in line for it, or says who holds it. Where
-- somebody waits, or is to, it goes on in acquire_slow.lua: what a line takes is not
-- even set up for those who find the lock free and nobody in line.
--
-- KEYS[1...10], or the first four, as in keys.lua
-- ARGV[1] head: who asks, as a grant begins with it: account and owner, which is
--         '' for none, each with its line break
-- ARGV[2] place: namespace and name, what stands in `held`
-- ARGV[3] lease_ms
-- ARGV[4] attempt: names this try, so that revert.lua can take it back
-- ARGV[5] deadline_us: the time after which nothing may be done any more
-- ARGV[6] held_max: how many locks the account may hold
-- ARGV[7] about: what stands in a grant behind its time: '@' and the lease in ms, if one is
--         asked for, and token, note and info, each behind a line break
-- and, left out where there are but four keys,
-- ARGV[8] epoch_us: the time of the last recovery, as far as the server knows
-- ARGV[9] wait_ms: for how long to stand in line, '0' for not at all
-- ARGV[10] pod: the channel to tell when the lock is handed over
-- ARGV[11] waiting_max: with how many requests the account may wait
-- ARGV[12] '1' when the journal is to know of such a lease; '' when not
-- ARGV[13] interval_us, ARGV[14] burst_us: the rate; left out when already paid
--
-- Returns one of
--   {'granted', backlog_us, fence, expires_ms}, {'again', ...} when its owner had it
--       already; and, when the journal is to record
--       it before it is answered, also seq, '1' when shorten.lua is to follow, the
--       former fence, which has ended, or '', and the grant as in `lock`
--   {'held', backlog_us, rest_ms, expires_ms, grant}   grant: the value of `lock`
--   {'in_line', backlog_us, rest_ms, expires_ms, grant}
--   {'recovering', backlog_us, rest_ms}   it stands in line, if it is to wait
--   {'over_quota', backlog_us, held}
--   {'too_many_waiting', backlog_us, waiting}
--   {'cancelled', backlog_us}   its owner has released the lock while this waited
--   {'busy', backlog_us}   ask again: others stand behind those that it took out of
--       the queue, whose servers are gone
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
--   {'too_few_keys', '0'}
-- where backlog_us is how far the bucket's time lies ahead, '0' when paid.
local now = time_us()
if now > tonumber(ARGV[5]) then
  return {'late', '0'}
end

local backlog, refusal = pay(BUCKET, now, ARGV[13], ARGV[14])
if refusal then
  return refusal
end

local now_ms = math.floor(now / 1000)
local expires_ms = word(now_ms + tonumber(ARGV[3]))
local head = ARGV[1]

-- Nobody has it, and nobody waits for it: one question is enough.
local is_known = TICKETS and redis.call('HGET', TICKETS, head)
if redis.call('EXISTS', LOCK, LINE) == 0 and not is_known then
  local held, fence, record =
    hold(now, expires_ms, head, nil, ARGV[4], ARGV[7], ARGV[2], ARGV[3], tonumber(ARGV[6]), ARGV[12] == '1')
  if held then
    return {'over_quota', backlog, held}
  end
  if fence then
    return {'granted', backlog, fence, expires_ms, unpack(record)}
  end
end
local grant = redis.call('GET', LOCK)
local wait_ms = tonumber(ARGV[9] or 0)
if grant and wait_ms == 0 and (string.sub(grant, 1, #head) ~= head or string.sub(head, -2) == '\n\n') then
  local rest_ms = redis.call('PTTL', LOCK)
  return {'held', backlog, word(rest_ms), word(now_ms + rest_ms), grant}
end
if not TICKETS then
  return {'too_few_keys', '0'}
end
