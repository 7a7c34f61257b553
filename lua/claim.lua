-- Collects the lock that was handed to a waiter, or says how its wait stands.
--
-- KEYS[1...10] as in keys.lua
-- ARGV[1] head, ARGV[2] place, ARGV[3] lease_ms, ARGV[4] attempt, ARGV[5] deadline_us,
-- ARGV[6] held_max, ARGV[7] about: as in acquire.lua
-- ARGV[8] '1' when the wait is over: what is not there by now is not waited for
-- ARGV[9] epoch_us: as in acquire.lua
-- ARGV[10] '1' when the journal is to know of such a lease; '' when not
--
-- Returns one of
--   {'granted', fence, expires_ms}, {'again', ...}   and what is to be recorded, as in
--                                          acquire.lua
--   {'held', rest_ms, expires_ms, grant}   not yet, or not any more
--   {'replaced', rest_ms, expires_ms, grant}   another request has its owner's place
--   {'gone'}                               it does not stand in line (any more)
--   {'over_quota', held}                   it has left the line
--   {'cancelled'}                          its owner has released the lock meanwhile
--   {'busy'}                               ask again, as in acquire.lua
--   {'recovering', rest_ms}                nobody may have it yet
--   {'late'}
local now = time_us()
if now > tonumber(ARGV[5]) then
  return {'late'}
end

local now_ms = math.floor(now / 1000)
local expires_ms = word(now_ms + tonumber(ARGV[3]))
local head = ARGV[1]
local has_owner = string.sub(head, -2) ~= '\n\n'
local ticket = has_owner and head or head .. ARGV[4]
if is_cancelled(ticket, ARGV[4]) then
  return {'cancelled'}
end
local grant, is_unfinished = redis.call('GET', LOCK), false
if not grant then
  grant, is_unfinished = hand_over(now)
end
if is_unfinished then
  return {'busy'}
end
local is_own = grant and string.sub(grant, 1, #head) == head
local recovery_ms = rest_of_recovery(now)

if is_own and not recovery_ms then
  local fence, _, _, mark, attempt = read_grant(grant, #head + 1)
  if mark == '?' and (attempt == ARGV[4] or has_owner) then
    redis.call('ZREM', WAITING, ARGV[4])
    if has_owner then
      stop_waiting(head)
    end
    local held, _, record =
      hold(now, expires_ms, head, fence, ARGV[4], ARGV[7], ARGV[2], ARGV[3], tonumber(ARGV[6]), ARGV[10] == '1')
    if held then
      redis.call('DEL', LOCK)
      hand_over(now)
      return {'over_quota', held}
    end
    -- The server of whoever is first now has to know when this lease lapses.
    local first = redis.call('ZRANGE', LINE, 0, 0)[1]
    if first then
      local next_attempt, pod = string.match(redis.call('HGET', TICKETS, first) or '\n\n', '^([^\n]*)\n([^\n]*)\n')
      redis.pcall('PUBLISH', pod, '!' .. next_attempt)
    end
    return {'granted', fence, expires_ms, unpack(record)}
  end
  if mark == '' and (attempt == ARGV[4] or has_owner) then
    -- It has been collected, and that answer was lost, or another request of the
    -- same owner was quicker.
    redis.call('ZREM', WAITING, ARGV[4])
    if has_owner then
      stop_waiting(head)
    end
    return collected_again(now, head, grant, ARGV[4], ARGV[2], ARGV[3], ARGV[9], ARGV[10] == '1', ARGV[7])
  end
end

local waiting, pod, position, about = read_ticket(ticket)
if ARGV[8] == '1' then
  leave(ticket, ARGV[4], now_ms)
elseif waiting == ARGV[4] and position ~= '' then
  -- It was handed the lock and did not collect it in time. Its ticket may have been to
  -- lapse with the reservations of others.
  local until_ms = tonumber(redis.call('ZSCORE', WAITING, ARGV[4]) or now_ms)
  keep(TICKETS, word(math.max(until_ms - now_ms, 0) + KEEP_MS))
  stand_again(ticket, waiting, pod, position, about)
end
if recovery_ms and (is_own or (waiting and not grant)) then
  return {'recovering', word(recovery_ms)}
end
if not grant or (not waiting and ARGV[8] ~= '1') then
  if not waiting then
    redis.call('ZREM', WAITING, ARGV[4])
  end
  return {'gone'}
end
local is_replaced = waiting and waiting ~= ARGV[4]
local rest_ms = redis.call('PTTL', LOCK)
return {is_replaced and 'replaced' or 'held', word(rest_ms), word(now_ms + rest_ms), grant}
