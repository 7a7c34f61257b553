-- Grants a free lock, or a lock after its hand-over. Included after keys.lua.

-- The bytes of a new grant after its holder. The time is omitted when it equals the fence.
local function encode_grant(now, fence_line, fence, attempt, metadata)
  local at_ms = ''
  if tonumber(fence) ~= now then
    at_ms = format_int(math.floor(now / 1000))
  end
  return fence_line .. '\n' .. attempt .. '\n' .. at_ms .. metadata
end

-- Grants the lock for a lease. `fence` is the fence of the hand-over, or nil for a free
-- lock. `holder_prefix` is as in acquire.lua. Returns three values:
--   1. the number of held locks, as a string, when the account's limit is reached;
--      then there is no grant and the others are missing
--   2. the fence; nil in a recovery
--   3. the change for the journal when `is_journaled`, otherwise an empty table
local function make_grant(
  now, expires_ms, holder_prefix, fence, attempt, metadata, lock_key, lease_ms, held_max, is_journaled)
  local held = redis.call('ZCARD', HELD)
  -- HELD also counts expired locks. They are removed when the count reaches the limit,
  -- and at every 64th lock, up to 128 a call: so the index of an account that uses each
  -- name once does not outgrow its held locks.
  if held >= held_max or held % 64 == 63 then
    held = count_live(HELD, math.floor(now / 1000))
    if held >= held_max then
      return format_int(held)
    end
  end
  local condition = fence and 'XX' or 'NX'
  fence = fence or next_fence(now)
  if not fence then
    return nil, nil
  end
  local fence_line = is_journaled and journal_line(fence, '', '', expires_ms) or fence
  local grant = holder_prefix .. encode_grant(now, fence_line, fence, attempt, metadata)
  redis.call('SET', LOCK, grant, condition, 'PX', lease_ms)
  redis.call('ZADD', HELD, expires_ms, lock_key)
  -- The index expires with its last lease, so that an inactive account leaves no keys.
  -- PEXPIRE with GT has no effect on a key without an expiry, as after the first ZADD.
  if held == 0 then
    redis.call('PEXPIRE', HELD, lease_ms)
  else
    redis.call('PEXPIRE', HELD, lease_ms, 'GT')
  end
  return nil, fence, is_journaled and {'1', '', '', grant} or {}
end
