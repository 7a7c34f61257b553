-- Renews the lease of a lock for its holder.
--
-- KEYS[1] lock, KEYS[2] held, KEYS[3] clock, KEYS[4] bucket: as in keys.lua
-- ARGV[1] holder_prefix: as in acquire.lua
-- ARGV[2] lock_key: the member of `held`
-- ARGV[3] lease_ms; or, to renew by the lease that the holder requested last, '?' and
--         three leases in ms, separated by spaces: the default for holders that never
--         requested one, the maximum, and the longest lease that is not journaled
-- ARGV[4] fence: the fence of the grant to renew, or '' for the current one
-- ARGV[5] deadline_us: the script changes nothing after this time, so that a delayed
--         heartbeat cannot shorten a lease
-- ARGV[6] '1' when the journal records grants of this lease, '' otherwise
-- ARGV[7] epoch_us: as in acquire.lua
-- ARGV[8] interval_us, ARGV[9] burst_us: the rate; omitted, with the bucket, when
--         already paid
--
-- Returns one of
--   {'renewed', backlog_us, fence, expires_ms, lease_ms}   with the journal's fields as
--                               in acquire.lua
--   {'not_held', backlog_us}
--   {'held_by_another', backlog_us}   also when the fence is not the current one
--   {'unsettled', backlog_us}   a recovery has not compared the grants with the journal
--                               yet, which may have a newer grant, or this one. The
--                               lease is extended meanwhile, but not confirmed
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
-- backlog_us: the time until the account's rate is unused again, '0' when already paid.
local now = time_us()
if now > tonumber(ARGV[5]) then
  return {'late', '0'}
end
local backlog, refusal = pay(KEYS[4], now, ARGV[8], ARGV[9])
if refusal then
  return refusal
end

local grant, holder_prefix = redis.call('GET', KEYS[1]), ARGV[1]
local fence, seq, until_ms, mark, attempt, tail, reason, is_changed
if grant and string.sub(grant, 1, #holder_prefix) == holder_prefix then
  fence, seq, until_ms, mark, attempt, tail = read_grant(grant, #holder_prefix + 1)
end
if not grant then
  reason = 'not_held'
elseif not fence or (ARGV[4] ~= '' and ARGV[4] ~= fence) then
  reason = 'held_by_another'
elseif mark ~= '' then
  -- The grant is not claimed yet, or broken.
  reason = 'not_held'
end
local lease_ms, is_journaled = ARGV[3], ARGV[6] == '1'
if not reason and string.sub(lease_ms, 1, 1) == '?' then
  local default_ms, max_ms, short_ms = string.match(lease_ms, '^%?(%d+) (%d+) (%d+)$')
  lease_ms = format_int(math.min(tonumber(requested_lease(tail)) or tonumber(default_ms), tonumber(max_ms)))
  is_journaled = tonumber(lease_ms) > tonumber(short_ms)
elseif not reason then
  is_changed = requested_lease(tail) ~= lease_ms
  tail = with_lease(tail, lease_ms)
end
-- safeguard: ClosedIsUnsettled
if is_closed(redis.call('GET', KEYS[3])) then
  if not reason then
    redis.call('PEXPIRE', KEYS[1], lease_ms, 'GT')
  end
  return {'unsettled', backlog}
end
-- safeguard end
if reason then
  --@off ClosedIsUnsettled: if is_closed(redis.call('GET', KEYS[3])) then return {'unsettled', backlog} end
  return {reason, backlog}
end

local confirmed_ms, is_shorter = lease_ms, false
local expires_ms = format_int(math.floor(now / 1000) + tonumber(lease_ms))
-- safeguard: ShorteningJournaled
-- A lease is shortened in the journal first, here afterwards, by shorten.lua. In the
-- other order, the lock could be granted to another holder while a recovery would still
-- restore this grant.
if until_ms ~= '' and tonumber(until_ms) > tonumber(expires_ms) then
  is_shorter = true
  lease_ms = format_int(math.max(redis.call('PTTL', KEYS[1]), tonumber(lease_ms)))
end
-- safeguard end
-- PEXPIRE comes first: when its memory is full, Redis refuses a script whose first write
-- needs memory, and accepts such writes after another write.
redis.call('PEXPIRE', KEYS[1], lease_ms)
-- The holder relies on the grant from here on: its attempt is removed, so that it cannot be
-- reverted. A grant from before the last recovery is marked as confirmed since: see regrant.lua.
local confirmed = tonumber(fence) < tonumber(ARGV[7]) and '!' .. ARGV[7] or ''
-- safeguard: FenceProven
if confirmed ~= '' and confirmed ~= attempt and ARGV[4] == '' then
  confirmed = '-' .. ARGV[7]
end
-- safeguard end
local fence_line, change = fence, {}
if is_shorter or is_journaled then
  fence_line = journal_line(fence, seq, until_ms, expires_ms)
  grant = holder_prefix .. fence_line .. '\n' .. confirmed .. '\n' .. tail
  change = {format_int((tonumber(seq) or 0) + 1), is_shorter and '1' or '', '', grant}
  --@off AttemptForgotten: change[4] = holder_prefix .. fence_line .. '\n' .. attempt .. '\n' .. tail
  redis.call('SET', KEYS[1], grant, 'PX', lease_ms)
elseif attempt ~= confirmed or is_changed then
  fence_line = until_ms == '' and fence or fence .. ' ' .. seq .. ' ' .. until_ms
  redis.call('SET', KEYS[1], holder_prefix .. fence_line .. '\n' .. confirmed .. '\n' .. tail, 'PX', lease_ms)
end
redis.call('ZADD', KEYS[2], 'XX', format_int(math.floor(now / 1000) + tonumber(lease_ms)), ARGV[2])
redis.call('PEXPIRE', KEYS[2], lease_ms, 'GT')
return {'renewed', backlog, fence, expires_ms, confirmed_ms, unpack(change)}
