-- Renews the lease of a lock for its holder.
--
-- KEYS[1] lock, KEYS[2] held, KEYS[3] clock, KEYS[4] bucket: as in keys.lua
-- ARGV[1] head: who asks, as in acquire.lua
-- ARGV[2] place: what stands in `held`
-- ARGV[3] lease_ms; or '?' and, with spaces between, the lease in ms of those who never asked
--         for one, the longest one, and the longest that the journal need not know of: then
--         it is the lease that the holder asked for last
-- ARGV[4] fence: that of the grant to renew, or '' for whichever is current
-- ARGV[5] deadline_us: the time after which nothing may be done any more, lest a
--         heartbeat that was held up makes a longer lease shorter
-- ARGV[6] '1' when the journal is to know of such a lease; '' when not
-- ARGV[7] epoch_us: as in acquire.lua
-- ARGV[8] interval_us, ARGV[9] burst_us: the rate; left out when already paid, and
--         the bucket with it
--
-- Returns one of
--   {'renewed', backlog_us, fence, expires_ms, lease_ms}   and what the journal is to
--                               record, as in acquire.lua
--   {'not_held', backlog_us}
--   {'held_by_another', backlog_us}   also when the fence is not the current one
--   {'unsettled', backlog_us}   it is not known yet whether the journal has a newer
--                               grant, or this one; its lease goes on meanwhile
--   {'rate_limited', backlog_us, retry_after_us}
--   {'late', '0'}
-- where backlog_us is how far the bucket's time lies ahead, '0' when paid.
local now = time_us()
if now > tonumber(ARGV[5]) then
  return {'late', '0'}
end
local backlog, refusal = pay(KEYS[4], now, ARGV[8], ARGV[9])
if refusal then
  return refusal
end

local grant = redis.call('GET', KEYS[1])
local head = ARGV[1]
local fence, seq, until_ms, mark, attempt, rest, reason, is_changed
if grant and string.sub(grant, 1, #head) == head then
  fence, seq, until_ms, mark, attempt, rest = read_grant(grant, #head + 1)
end
if not grant then
  reason = 'not_held'
elseif not fence or (ARGV[4] ~= '' and ARGV[4] ~= fence) then
  reason = 'held_by_another'
elseif mark ~= '' then
  -- What waits to be collected is held by nobody yet, what was broken not any more.
  reason = 'not_held'
end
local lease_ms, is_long = ARGV[3], ARGV[6] == '1'
if not reason and string.sub(lease_ms, 1, 1) == '?' then
  local default_ms, max_ms, short_ms = string.match(lease_ms, '^%?(%d+) (%d+) (%d+)$')
  lease_ms = word(math.min(tonumber(asked_lease(rest)) or tonumber(default_ms), tonumber(max_ms)))
  is_long = tonumber(lease_ms) > tonumber(short_ms)
elseif not reason then
  is_changed = asked_lease(rest) ~= lease_ms
  rest = with_lease(rest, lease_ms)
end
-- mend: ClosedIsUnsettled
if is_closed(redis.call('GET', KEYS[3])) then
  if not reason then
    redis.call('PEXPIRE', KEYS[1], lease_ms, 'GT')
  end
  return {'unsettled', backlog}
end
-- mend end
if reason then
  --@off ClosedIsUnsettled: if is_closed(redis.call('GET', KEYS[3])) then return {'unsettled', backlog} end
  return {reason, backlog}
end

local asked_ms, is_shorter = lease_ms, false
local expires_ms = word(math.floor(now / 1000) + tonumber(lease_ms))
-- mend: ShorteningJournaled
-- A lease that gets shorter than its journal row stays as it is until the row is
-- shorter, too: otherwise the lock could be granted to another holder while a
-- recovery would still restore this one.
if until_ms ~= '' and tonumber(until_ms) > tonumber(expires_ms) then
  is_shorter = true
  lease_ms = word(math.max(redis.call('PTTL', KEYS[1]), tonumber(lease_ms)))
end
-- mend end
-- PEXPIRE stands first: with its memory full Redis lets a script go on that has
-- begun to write, but not begin with a write that may need memory.
redis.call('PEXPIRE', KEYS[1], lease_ms)
-- The holder relies on the grant: the attempt that made it may not take it back
-- any more. Where Redis may have forgotten what came after the grant, it is
-- marked as held since, see regrant.lua.
local known = tonumber(fence) < tonumber(ARGV[7]) and '!' .. ARGV[7] or ''
local line, record = fence, {}
if is_shorter or is_long then
  line = journal_line(fence, seq, until_ms, expires_ms)
  grant = head .. line .. '\n' .. known .. '\n' .. rest
  record = {word((tonumber(seq) or 0) + 1), is_shorter and '1' or '', '', grant}
  --@off AttemptForgotten: record[4] = head .. line .. '\n' .. attempt .. '\n' .. rest
  redis.call('SET', KEYS[1], grant, 'PX', lease_ms)
elseif attempt ~= known or is_changed then
  if until_ms ~= '' then
    line = fence .. ' ' .. seq .. ' ' .. until_ms
  end
  redis.call('SET', KEYS[1], head .. line .. '\n' .. known .. '\n' .. rest, 'PX', lease_ms)
end
redis.call('ZADD', KEYS[2], 'XX', word(math.floor(now / 1000) + tonumber(lease_ms)), ARGV[2])
redis.call('PEXPIRE', KEYS[2], lease_ms, 'GT')
return {'renewed', backlog, fence, expires_ms, asked_ms, unpack(record)}
