-- The continuation of acquire.lua, with its local variables, KEYS[1...10], ARGV[1...14]
-- and returns. It handles repeated requests of an owner, requests that wait, locks
-- with a queue, and recoveries.

local has_owner = string.sub(holder_prefix, -2) ~= '\n\n'
if consume_cancellation(has_owner and holder_prefix or holder_prefix .. ARGV[4], ARGV[4]) then
  return {'cancelled', backlog}
end
-- After an expired lease, queued requests precede this one.
if not grant then
  local is_unfinished
  grant, is_unfinished = hand_over(now)
  if is_unfinished then
    return {'busy', backlog}
  end
end
local recovery_ms = recovery_remaining_ms(now)
local is_own = grant and has_owner and string.sub(grant, 1, #holder_prefix) == holder_prefix
local fence, mark
if is_own then
  local _
  fence, _, _, mark = read_grant(grant, #holder_prefix + 1)
  -- A broken grant no longer has a holder.
  is_own = mark ~= '#'
end
if recovery_ms or (grant and not is_own) then
  local status = 'held'
  if wait_ms > 0 then
    local waiting = enqueue(now, holder_prefix, ARGV[4], ARGV[10], ARGV[7], wait_ms, tonumber(ARGV[11]))
    if waiting then
      return {'too_many_waiting', backlog, waiting}
    end
    status = 'queued'
  end
  -- Another holder's grant is reported even in a recovery.
  if is_own or not grant then
    return {'recovering', backlog, format_int(recovery_ms)}
  end
  local ttl_ms = redis.call('PTTL', LOCK)
  return {status, backlog, format_int(ttl_ms), format_int(now_ms + ttl_ms), grant}
end

local change
if has_owner then
  end_wait(holder_prefix)
end
if grant and mark == '' then
  fence, change =
    regrant(now, expires_ms, holder_prefix, grant, '', ARGV[2], ARGV[3], ARGV[8], ARGV[12] == '1', ARGV[7])
  return {'again', backlog, fence, expires_ms, unpack(change)}
end

local held
held, fence, change = make_grant(now, expires_ms, holder_prefix, fence, ARGV[4], ARGV[7],
  ARGV[2], ARGV[3], tonumber(ARGV[6]), ARGV[12] == '1')
if held then
  if grant then
    redis.call('DEL', LOCK)
    hand_over(now)
  end
  return {'over_quota', backlog, held}
end
return {'granted', backlog, fence, expires_ms, unpack(change)}
