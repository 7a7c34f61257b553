-- Functions of all scripts. Included before each of them.
--
-- Scripts read the time from Redis, never from a server, and format numbers by
-- themselves: Lua's own conversion to a string rounds to 14 digits.

-- The time in microseconds since 1970, as a number; exact below 2^53.
local function time_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Formats a whole number.
local function format_int(number)
  return string.format('%.0f', number)
end

-- Charges up to `wanted` requests to a rate, by the generic cell rate algorithm (GCRA):
-- the bucket stores the time at which the rate is unused again. Returns the number of
-- charged requests, the time in us until the rate is unused again, and, if no request
-- was charged, the time in us until one can be.
local function charge(bucket, now, interval_us, burst_us, wanted)
  local stored = tonumber(redis.call('GET', bucket) or now)
  -- A stored time beyond any burst was written before the clock was set back or the burst
  -- was reduced. It is discarded, so that it does not block the account until then. The
  -- clocks of two Redis nodes may differ by up to a second, which is tolerated.
  local full_at = math.min(math.max(stored, now), now + burst_us)
  if stored > now + burst_us + 1000000 then
    full_at = now
  end
  -- Half a microsecond compensates the rounding of the stored time.
  local fitting = math.floor((now + burst_us - full_at + 0.5) / interval_us)
  local charged = math.max(math.min(wanted, fitting), 0)
  full_at = full_at + charged * interval_us
  if charged > 0 or full_at < stored then
    -- pcall: when its memory is full, Redis refuses this write. Heartbeats and releases
    -- must succeed then, so the request is not counted.
    redis.pcall('SET', bucket, format_int(full_at), 'PX', format_int(math.ceil((full_at - now) / 1000)))
  end
  if charged == 0 then
    return 0, full_at - now, full_at + interval_us - burst_us - now
  end
  return charged, full_at - now, 0
end

-- Charges one request to a rate, unless it is already paid: then interval and burst are
-- '' or omitted. Returns the time in us until the rate is unused again, as a string, and
-- the reply of a rate-limited request.
local function pay(bucket, now, interval_us, burst_us)
  if not interval_us or interval_us == '' then
    return '0', nil
  end
  local charged, backlog, retry_after = charge(bucket, now, tonumber(interval_us), tonumber(burst_us), 1)
  if charged == 0 then
    return nil, {'rate_limited', format_int(backlog), format_int(math.ceil(retry_after))}
  end
  return format_int(backlog), nil
end
