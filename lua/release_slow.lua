-- The continuation of release.lua, with its local variables, KEYS[1...10], ARGV[1...6] and
-- returns. It adds a tombstone for a journaled grant, so that no recovery restores it,
-- and hands the lock over to the first queued request.

-- The maximum number of tombstones that a refused release searches. Servers remove a
-- tombstone within milliseconds, so there are more only while the journal is unavailable.
local SEARCHED_MAX = 100

-- Finds the last grant of an account that has a tombstone. `grant` is the value of `lock`.
-- Returns its fence and until_ms, or nothing. Earlier ones do not matter: a recovery
-- restores only the last grant of a lock in the journal.
local function find_tombstone(grant, account, lock_key)
  -- The tombstone of a former fence, see regrant.lua, is no end: the journal must record
  -- the new fence first. Such a fence is not older than the current grant.
  local before_us = math.huge
  if grant then
    local fence, _, _, mark, _, tail = read_grant(grant, string.match(grant, '^[^\n]*\n[^\n]*\n()'))
    local at_ms = string.match(tail, '^%d+')
    if mark ~= '#' then
      before_us = at_ms and tonumber(at_ms) * 1000 or tonumber(fence)
    end
  end
  local last, last_until_ms = 0, nil
  local of_lock = ' ' .. account .. ' ' .. lock_key
  local found = redis.call('ZRANGE', ENDED, 0, format_int(SEARCHED_MAX - 1), 'WITHSCORES')
  for at = 1, #found, 2 do
    local fence = string.match(found[at], '^%d+')
    if found[at] == fence .. of_lock and tonumber(fence) > last and tonumber(fence) < before_us then
      last, last_until_ms = tonumber(fence), found[at + 1]
    end
  end
  if last_until_ms then
    return format_int(last), last_until_ms
  end
end

if reason then
  -- This answer tells the caller that its grant has ended. An earlier release may have
  -- ended it without an answer to its server, which then does not know the grant. So this
  -- server records the end, even if Redis loses all data now.
  return {reason, backlog, find_tombstone(grant, string.match(holder_prefix, '^[^\n]*'), ARGV[2])}
end
if until_ms ~= '' then
  add_tombstone(now, holder_prefix, ARGV[2], fence, until_ms)
end
local _, is_unfinished = hand_over(now)
return {'released', backlog, fence, until_ms ~= '' and until_ms or '0', is_unfinished and '1' or '', acquirer}
