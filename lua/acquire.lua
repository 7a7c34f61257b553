-- Acquires a lock for a lease, stands in line for it, or says who holds it. Where
-- somebody waits, or is to, it goes on in wait.lua: what a line takes is not
-- even set up for those who find the lock free and nobody in line.
--
-- KEYS[1...9] as in keys.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
-- ARGV[3] account, ARGV[4] owner: who asks; the owner is '' for none
-- ARGV[5] place: namespace and name, what stands in `held`
-- ARGV[6] lease_ms
-- ARGV[7] attempt: names this try, so that withdraw.lua can take it back
-- ARGV[8] deadline_us: the time after which nothing may be done any more
-- ARGV[9] held_max: how many locks the account may hold
-- ARGV[10] about: label, note and info, one to a line
-- ARGV[11] wait_ms: for how long to stand in line, '0' for not at all
-- ARGV[12] pod: the channel to tell when the lock is handed over
-- ARGV[13] waiting_max: with how many requests the account may wait
-- ARGV[14] epoch_us: the time of the last recovery, as far as the server knows
--
-- Returns one of
--   {'granted', backlog_us, fence, expires_ms}
--   {'held', backlog_us, rest_ms, expires_ms, grant}   grant: the value of `lock`
--   {'in_line', backlog_us, rest_ms, expires_ms, grant}
--   {'recovering', backlog_us, rest_ms}   it stands in line, if it is to wait
--   {'over_quota', backlog_us, held}
--   {'too_many_waiting', backlog_us, waiting}
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
-- where backlog_us is how far the bucket's time lies ahead, '0' when paid.
local now = time_us()
if now > tonumber(ARGV[8]) then
  return {'late', '0'}
end

local backlog, refusal = pay(BUCKET, now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end

local now_ms = math.floor(now / 1000)
local expires_ms = word(now_ms + tonumber(ARGV[6]))
local head = ARGV[3] .. '\n' .. ARGV[4] .. '\n'
local grant = redis.call('GET', LOCK)

if not grant and redis.call('EXISTS', LINE) == 0 then
  local held, fence = hold(now, head, nil, ARGV[7], ARGV[10], ARGV[5], ARGV[6], tonumber(ARGV[9]))
  if held then
    return {'over_quota', backlog, held}
  end
  if fence then
    return {'granted', backlog, fence, expires_ms}
  end
end
if grant and ARGV[11] == '0' and (ARGV[4] == '' or string.sub(grant, 1, #head) ~= head) then
  local rest_ms = redis.call('PTTL', LOCK)
  return {'held', backlog, word(rest_ms), word(now_ms + rest_ms), grant}
end
