-- Acquires a lock for a lease, or says who holds it.
--
-- KEYS[1] lock   string: the grant, one field to a line: account, owner, fence,
--                attempt, time of the grant in ms, token label, note
-- KEYS[2] clock  string: the last fence given in this hash slot
-- KEYS[3] held   sorted set: the places of the locks that the account holds in
--                this hash slot, by the time in ms at which they lapse
-- KEYS[4] bucket string: the token's rate, see prelude.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
-- ARGV[3] account, ARGV[4] owner: who asks; the owner is '' for none
-- ARGV[5] place: namespace and name, what stands in `held`
-- ARGV[6] lease_ms
-- ARGV[7] attempt: names this try, so that release.lua can take it back
-- ARGV[8] deadline_us: the time after which nothing may be done any more
-- ARGV[9] held_max: how many locks the account may hold
-- ARGV[10] label, ARGV[11] note
--
-- Returns one of
--   {'granted', backlog_us, fence, expires_ms}
--   {'held', backlog_us, rest_ms, expires_ms, grant}   grant: the value of `lock`
--   {'over_quota', backlog_us, held}
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
-- where backlog_us is how far the bucket's time lies ahead, '0' when paid.
local now = time_us()
if now > tonumber(ARGV[8]) then
  return {'late', '0'}
end

local backlog, refusal = pay(KEYS[4], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end

local now_ms = math.floor(now / 1000)
local lease_ms = tonumber(ARGV[6])
local expires_ms = word(now_ms + lease_ms)
local holder = ARGV[3] .. '\n' .. ARGV[4] .. '\n'
local grant = redis.call('GET', KEYS[1])

if grant then
  if ARGV[4] == '' or string.sub(grant, 1, #holder) ~= holder then
    local rest_ms = redis.call('PTTL', KEYS[1])
    return {'held', backlog, word(rest_ms), word(now_ms + rest_ms), grant}
  end
  -- The holder asks again: the same fence, and a lease that starts anew. No
  -- attempt may take the grant back from now on, neither the one that made it,
  -- whose answer may have been lost, nor this one, since the holder may rely on
  -- an answer to the first.
  local fence, rest = string.match(grant, '^[^\n]*\n[^\n]*\n(%d+)\n[^\n]*\n(.*)$')
  redis.call('SET', KEYS[1], holder .. fence .. '\n\n' .. rest, 'PX', ARGV[6])
  redis.call('ZADD', KEYS[3], 'XX', expires_ms, ARGV[5])
  redis.call('PEXPIRE', KEYS[3], ARGV[6], 'GT')
  return {'granted', backlog, fence, expires_ms}
end

local held = redis.call('ZCARD', KEYS[3])
if held >= tonumber(ARGV[9]) then
  -- Locks that lapsed are still counted: strike them out, and count again.
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. word(now_ms))
  held = redis.call('ZCARD', KEYS[3])
  if held >= tonumber(ARGV[9]) then
    return {'over_quota', backlog, word(held)}
  end
end

-- A hybrid logical clock: a fence rises even when the time is set back.
local fence = word(math.max(now, tonumber(redis.call('GET', KEYS[2]) or 0) + 1))
grant = table.concat({ARGV[3], ARGV[4], fence, ARGV[7], word(now_ms), ARGV[10], ARGV[11]}, '\n')
redis.call('SET', KEYS[1], grant, 'NX', 'PX', ARGV[6])
redis.call('SET', KEYS[2], fence)
redis.call('ZADD', KEYS[3], expires_ms, ARGV[5])
-- The index lasts as long as the last lease in it, so that nothing is left of
-- an account that went away. GT alone would never end one that has no end yet.
if held == 0 then
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
else
  redis.call('PEXPIRE', KEYS[3], ARGV[6], 'GT')
end
return {'granted', backlog, fence, expires_ms}
