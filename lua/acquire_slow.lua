-- The rest of acquire.lua, with its KEYS[1...10] and ARGV[1...14]: for an owner that
-- asks again, for those who are to wait, where somebody does already, and in a
-- recovery. Returns what acquire.lua does.

local has_owner = string.sub(head, -2) ~= '\n\n'
if is_cancelled(has_owner and head or head .. ARGV[4], ARGV[4]) then
  return {'cancelled', backlog}
end
-- When a lease has lapsed those who wait come first, whoever asks now.
if not grant then
  local is_unfinished
  grant, is_unfinished = hand_over(now)
  if is_unfinished then
    return {'busy', backlog}
  end
end
local recovery_ms = rest_of_recovery(now)
local is_own = grant and has_owner and string.sub(grant, 1, #head) == head
local fence, mark
if is_own then
  local _
  fence, _, _, mark = read_grant(grant, #head + 1)
  -- What was broken is not held any more.
  is_own = mark ~= '#'
end
if recovery_ms or (grant and not is_own) then
  local status = 'held'
  if wait_ms > 0 then
    local waiting = stand_in_line(now, head, ARGV[4], ARGV[10], ARGV[7], wait_ms, tonumber(ARGV[11]))
    if waiting then
      return {'too_many_waiting', backlog, waiting}
    end
    status = 'in_line'
  end
  -- What is held is held, unless it is all that is known of it.
  if is_own or not grant then
    return {'recovering', backlog, word(recovery_ms)}
  end
  local rest_ms = redis.call('PTTL', LOCK)
  return {status, backlog, word(rest_ms), word(now_ms + rest_ms), grant}
end

local record
if has_owner then
  stop_waiting(head)
end
if grant and mark == '' then
  fence, record = hold_on(now, expires_ms, head, grant, '', ARGV[2], ARGV[3], ARGV[8], ARGV[12] == '1', ARGV[7])
  return {'again', backlog, fence, expires_ms, unpack(record)}
end

local held
held, fence, record =
  hold(now, expires_ms, head, fence, ARGV[4], ARGV[7], ARGV[2], ARGV[3], tonumber(ARGV[6]), ARGV[12] == '1')
if held then
  if grant then
    redis.call('DEL', LOCK)
    hand_over(now)
  end
  return {'over_quota', backlog, held}
end
return {'granted', backlog, fence, expires_ms, unpack(record)}
