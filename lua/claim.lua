-- Claims the lock after a hand-over to this queued request, or returns the progress
-- of the wait.
--
-- KEYS[1...10] as in keys.lua
-- ARGV[1] holder_prefix, ARGV[2] lock_key, ARGV[3] lease_ms, ARGV[4] attempt,
-- ARGV[5] deadline_us, ARGV[6] held_max, ARGV[7] metadata: as in acquire.lua
-- ARGV[8] '1' for the last claim of the request: without a grant, the request leaves
--         the queue
-- ARGV[9] epoch_us: as in acquire.lua
-- ARGV[10] '1' when the journal records grants of this lease, '' otherwise
--
-- Returns one of
--   {'granted', fence, expires_ms}, {'again', fence, expires_ms}   with the journal's
--                                          fields as in acquire.lua
--   {'held', ttl_ms, expires_ms, grant}    not handed over yet, or not claimed in time
--   {'replaced', ttl_ms, expires_ms, grant}   another request of the owner has taken
--                                          over the queue entry
--   {'gone'}                               the queue has no entry of the request
--   {'over_quota', held}                   the request has left the queue
--   {'cancelled'}                          the owner's release has cancelled it
--   {'busy'}                               call again, as in acquire.lua
--   {'recovering', remaining_ms}           a recovery prevents all grants
--   {'late'}
local now = time_us()
if now > tonumber(ARGV[5]) then
  return {'late'}
end

local now_ms = math.floor(now / 1000)
local expires_ms = format_int(now_ms + tonumber(ARGV[3]))
local holder_prefix = ARGV[1]
local has_owner = string.sub(holder_prefix, -2) ~= '\n\n'
local entry = has_owner and holder_prefix or holder_prefix .. ARGV[4]
if consume_cancellation(entry, ARGV[4]) then
  return {'cancelled'}
end
local grant, is_unfinished = redis.call('GET', LOCK), false
if not grant then
  grant, is_unfinished = hand_over(now)
end
if is_unfinished then
  return {'busy'}
end
local is_own = grant and string.sub(grant, 1, #holder_prefix) == holder_prefix
local recovery_ms = recovery_remaining_ms(now)

if is_own and not recovery_ms then
  local fence, _, _, mark, attempt = read_grant(grant, #holder_prefix + 1)
  if mark ~= '#' and (attempt == ARGV[4] or has_owner) then
    redis.call('ZREM', WAITING, ARGV[4])
    if has_owner then
      end_wait(holder_prefix)
    end
    if mark == '' then
      -- An earlier claim was granted and its answer lost, or another request of the
      -- owner was granted first.
      return claim_again(now, holder_prefix, grant, ARGV[4], ARGV[2], ARGV[3], ARGV[9], ARGV[10] == '1', ARGV[7])
    end
    local held, _, change = make_grant(now, expires_ms, holder_prefix, fence, ARGV[4], ARGV[7],
      ARGV[2], ARGV[3], tonumber(ARGV[6]), ARGV[10] == '1')
    if held then
      redis.call('DEL', LOCK)
      hand_over(now)
      return {'over_quota', held}
    end
    -- The server of the new first entry needs the expiry of this lease.
    local first = redis.call('ZRANGE', QUEUE, 0, 0)[1]
    if first then
      local next_attempt, pod = string.match(redis.call('HGET', ENTRIES, first) or '\n\n', '^([^\n]*)\n([^\n]*)\n')
      redis.pcall('PUBLISH', pod, '!' .. next_attempt)
    end
    return {'granted', fence, expires_ms, unpack(change)}
  end
end

local waiting, pod, position, metadata = read_entry(entry)
if ARGV[8] == '1' then
  leave_queue(entry, ARGV[4], now_ms)
elseif waiting == ARGV[4] and position ~= '' then
  -- The lock was handed over to this request, which did not claim it in time. ENTRIES may
  -- have been set to expire with the reservations of others.
  local until_ms = tonumber(redis.call('ZSCORE', WAITING, ARGV[4]) or now_ms)
  extend_ttl(ENTRIES, format_int(math.max(until_ms - now_ms, 0) + RESERVE_MS))
  requeue(entry, waiting, pod, position, metadata)
end
if recovery_ms and (is_own or (waiting and not grant)) then
  return {'recovering', format_int(recovery_ms)}
end
if not grant or (not waiting and ARGV[8] ~= '1') then
  if not waiting then
    redis.call('ZREM', WAITING, ARGV[4])
  end
  return {'gone'}
end
local is_replaced = waiting and waiting ~= ARGV[4]
local ttl_ms = redis.call('PTTL', LOCK)
return {is_replaced and 'replaced' or 'held', format_int(ttl_ms), format_int(now_ms + ttl_ms), grant}
