-- What the scripts share. It stands before each of them when they are loaded.
--
-- Scripts read time from Redis, never from a pod, and turn numbers into words
-- themselves: Lua's own conversion rounds past 14 digits.

-- The time in microseconds since 1970, as a number; exact below 2^53.
local function time_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- A whole number as a word.
local function word(number)
  return string.format('%.0f', number)
end

-- Charges up to `wanted` requests to a rate, by the generic cell rate
-- algorithm: the bucket holds the time at which it will be full again.
-- Returns how many fitted, by how many microseconds the bucket's time lies
-- ahead, and after how many one more request will fit.
local function charge(bucket, now, interval_us, burst_us, wanted)
  local stored = tonumber(redis.call('GET', bucket) or now)
  -- A time that no burst can have reached was written before the clock was set
  -- back or the burst made smaller, and must not lock the account out until then. By
  -- a second or less the clocks of two nodes may differ.
  local full_at = math.min(math.max(stored, now), now + burst_us)
  if stored > now + burst_us + 1000000 then
    full_at = now
  end
  -- Half a microsecond takes up the rounding of the stored time.
  local fitting = math.floor((now + burst_us - full_at + 0.5) / interval_us)
  local charged = math.max(math.min(wanted, fitting), 0)
  full_at = full_at + charged * interval_us
  if charged > 0 or full_at < stored then
    -- With its memory full Redis refuses this write. Heartbeats and releases
    -- must work then all the same, so the request goes uncounted.
    redis.pcall('SET', bucket, word(full_at), 'PX', word(math.ceil((full_at - now) / 1000)))
  end
  if charged == 0 then
    return 0, full_at - now, full_at + interval_us - burst_us - now
  end
  return charged, full_at - now, 0
end

-- Charges one request to a rate, unless it is paid for already: then the words
-- for interval and burst are empty, or left out. Returns by how many microseconds the
-- bucket's time lies ahead, as a word, and a reply when the request is refused.
local function pay(bucket, now, interval_us, burst_us)
  if not interval_us or interval_us == '' then
    return '0', nil
  end
  local charged, backlog, retry_after = charge(bucket, now, tonumber(interval_us), tonumber(burst_us), 1)
  if charged == 0 then
    return nil, {'rate_limited', word(backlog), word(math.ceil(retry_after))}
  end
  return word(backlog), nil
end
