-- Renews a grant when its holder acquires the lock again. Included after grant.lua and
-- tombstone.lua.

-- Renews the lease of the current grant. `attempt` is the attempt that may still revert
-- the grant: the attempt that made it, if the same one asks again. It is '' when another
-- one asks: then the holder may rely on the answer to either, and neither may revert it.
-- A lease in `metadata`, see acquire.lua, becomes the requested lease of the grant.
-- Returns the fence, and the journal's fields as in acquire.lua.
--
-- A grant from before `epoch_us`, the time of the last recovery, gets a new fence: Redis
-- may have lost its release, and later grants with it. A heartbeat with the fence since
-- the recovery, marked in the attempt, rules that out: the grant keeps its fence. One
-- without the fence does not: the owner may have released this grant, and mean a later
-- acquire that got no answer.
local function regrant(
  now, expires_ms, holder_prefix, grant, attempt, lock_key, lease_ms, epoch_us, is_journaled, metadata)
  local fence, seq, until_ms, _, before, tail = read_grant(grant, #holder_prefix + 1)
  local requested_ms = requested_lease(metadata)
  if requested_ms ~= '' then
    tail = with_lease(tail, requested_ms)
  end
  local former = ''
  -- safeguard: Refenced
  if tonumber(fence) < tonumber(epoch_us) and before ~= '!' .. epoch_us then
    if not string.find(tail, '^%d') then
      -- The grant keeps its time, which was omitted because it equaled the former fence.
      tail = format_int(math.floor(tonumber(fence) / 1000)) .. tail
    end
    former = fence
    fence = next_fence(now)
  end
  -- safeguard end
  -- safeguard: ShorteningJournaled
  -- A lease is shortened in the journal first, see heartbeat.lua.
  local is_shorter = until_ms ~= '' and tonumber(until_ms) > tonumber(expires_ms)
  if is_shorter then
    lease_ms = format_int(math.max(redis.call('PTTL', LOCK), tonumber(lease_ms)))
  end
  -- safeguard end
  --@off ShorteningJournaled: local is_shorter = false
  local has_change = is_journaled or is_shorter or (until_ms ~= '' and former ~= '')
  local fence_line = fence
  if has_change then
    fence_line = journal_line(fence, seq, until_ms, expires_ms)
  elseif until_ms ~= '' then
    fence_line = fence .. ' ' .. seq .. ' ' .. until_ms
  end
  grant = holder_prefix .. fence_line .. '\n' .. attempt .. '\n' .. tail
  redis.call('SET', LOCK, grant, 'PX', lease_ms)
  redis.call('ZADD', HELD, 'XX', format_int(math.floor(now / 1000) + tonumber(lease_ms)), lock_key)
  redis.call('PEXPIRE', HELD, lease_ms, 'GT')
  if former ~= '' and until_ms ~= '' then
    add_tombstone(now, holder_prefix, lock_key, former, until_ms)
  end
  if not has_change then
    return fence, {}
  end
  return fence, {format_int((tonumber(seq) or 0) + 1), is_shorter and '1' or '', former, grant}
end
