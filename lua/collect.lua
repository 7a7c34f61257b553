-- Collects the lock that was handed to a waiter, or says how its wait stands.
--
-- KEYS[1...9] as in keys.lua
-- ARGV[1] account, ARGV[2] owner, ARGV[3] place, ARGV[4] lease_ms, ARGV[5] attempt,
-- ARGV[6] deadline_us, ARGV[7] held_max, ARGV[8] about: as in acquire.lua
-- ARGV[9] '1' when the wait is over: what is not there by now is not waited for
-- ARGV[10] epoch_us: as in acquire.lua
--
-- Returns one of
--   {'granted', fence, expires_ms}
--   {'held', rest_ms, expires_ms, grant}   not yet, or not any more
--   {'replaced', rest_ms, expires_ms, grant}   another request has its owner's place
--   {'gone'}                               it does not stand in line (any more)
--   {'over_quota', held}                   it has left the line
--   {'recovering', rest_ms}                nobody may have it yet
--   {'late'}
local now = time_us()
if now > tonumber(ARGV[6]) then
  return {'late'}
end

local now_ms = math.floor(now / 1000)
local expires_ms = word(now_ms + tonumber(ARGV[4]))
local head = ARGV[1] .. '\n' .. ARGV[2] .. '\n'
local grant = redis.call('GET', LOCK) or hand_over(now)
local is_own = grant and string.sub(grant, 1, #head) == head
local recovery_ms = rest_of_recovery(now)

if is_own and not recovery_ms then
  local fence, attempt, rest = string.match(grant, '^(%d+)\n([^\n]*)\n(.*)$', #head + 1)
  if attempt == '?' .. ARGV[5] or (ARGV[2] ~= '' and string.sub(attempt, 1, 1) == '?') then
    redis.call('ZREM', WAITING, ARGV[5])
    redis.call('ZREM', WAITING, string.sub(attempt, 2))
    local held = hold(now, head, fence, ARGV[5], ARGV[8], ARGV[3], ARGV[4], tonumber(ARGV[7]))
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
    return {'granted', fence, expires_ms}
  end
  if attempt == ARGV[5] or ARGV[2] ~= '' then
    -- It has been collected, and that answer was lost, or another request of the
    -- same owner was quicker.
    redis.call('ZREM', WAITING, ARGV[5])
    local kept = attempt == ARGV[5] and attempt or ''
    fence = hold_on(now, head, fence, attempt, kept, rest, ARGV[3], ARGV[4], ARGV[10])
    return {'granted', fence, expires_ms}
  end
end

local ticket = ARGV[2] == '' and head .. ARGV[5] or head
local record = redis.call('HGET', TICKETS, ticket)
if ARGV[9] == '1' then
  leave(ticket, record, ARGV[5], now_ms)
end
if recovery_ms and (is_own or (record and not grant)) then
  return {'recovering', word(recovery_ms)}
end
if not grant or (not record and ARGV[9] ~= '1') then
  redis.call('ZREM', WAITING, ARGV[5])
  return {'gone'}
end
local is_replaced = record and string.match(record, '^[^\n]*') ~= ARGV[5]
local rest_ms = redis.call('PTTL', LOCK)
return {is_replaced and 'replaced' or 'held', word(rest_ms), word(now_ms + rest_ms), grant}
