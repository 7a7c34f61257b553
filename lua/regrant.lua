-- What it is to hold on to a lock. It stands behind grant.lua and tombstone.lua.

-- Renews the lease of a lock for its holder, who has asked for it once more. The
-- attempt that made the grant may take it back only if it is the same that asks
-- now; else none may, neither that one, whose answer may have been lost, nor this
-- one, since the holder may rely on an answer to the first: then `attempt` is ''.
-- With a lease in `about`, see acquire.lua, its holder asks for that one from then on.
-- Returns the fence, and what the journal is to record, see acquire.lua.
--
-- A grant from before `epoch_us`, the time of the last recovery, is fenced anew,
-- unless its attempt says that its holder has sent a heartbeat since: its release
-- may have been lost, and with it grants that came after.
local function hold_on(now, expires_ms, head, grant, attempt, place, lease_ms, epoch_us, is_long, about)
  local fence, seq, until_ms, _, before, rest = read_grant(grant, #head + 1)
  local asked_ms = asked_lease(about)
  if asked_ms ~= '' then
    rest = with_lease(rest, asked_ms)
  end
  local former = ''
  -- mend: FencedAnew
  if tonumber(fence) < tonumber(epoch_us) and before ~= '!' .. epoch_us then
    if not string.find(rest, '^%d') then
      -- The time of the grant does not change with its fence.
      rest = word(math.floor(tonumber(fence) / 1000)) .. rest
    end
    former = fence
    fence = next_fence(now)
  end
  -- mend end
  -- mend: ShorteningJournaled
  -- The lock must not be free before the journal knows: see heartbeat.lua.
  local is_shorter = until_ms ~= '' and tonumber(until_ms) > tonumber(expires_ms)
  if is_shorter then
    lease_ms = word(math.max(redis.call('PTTL', LOCK), tonumber(lease_ms)))
  end
  -- mend end
  --@off ShorteningJournaled: local is_shorter = false
  local is_recorded = is_long or is_shorter or (until_ms ~= '' and former ~= '')
  local line = fence
  if is_recorded then
    line = journal_line(fence, seq, until_ms, expires_ms)
  elseif until_ms ~= '' then
    line = fence .. ' ' .. seq .. ' ' .. until_ms
  end
  grant = head .. line .. '\n' .. attempt .. '\n' .. rest
  redis.call('SET', LOCK, grant, 'PX', lease_ms)
  redis.call('ZADD', HELD, 'XX', word(math.floor(now / 1000) + tonumber(lease_ms)), place)
  redis.call('PEXPIRE', HELD, lease_ms, 'GT')
  if former ~= '' and until_ms ~= '' then
    end_grant(now, head, place, former, until_ms)
  end
  if not is_recorded then
    return fence, {}
  end
  return fence, {word((tonumber(seq) or 0) + 1), is_shorter and '1' or '', former, grant}
end
