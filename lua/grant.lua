-- What it is to hold a lock. It stands behind keys.lua.

-- A grant that is made now, but for who has it.
local function granted(now, fence, line, attempt, about)
  local at_ms = ''
  if tonumber(fence) ~= now then
    at_ms = word(math.floor(now / 1000))
  end
  return line .. '\n' .. attempt .. '\n' .. at_ms .. about
end

-- Gives the lock to an account for a lease, unless it holds as many as it may:
-- then returns how many these are, as a word, else nothing and the fence; neither
-- in a recovery. `head` is account and owner, each with its line break. With a
-- `fence` the lock was handed over under it, else it is free. A grant that
-- `is_long` gets a journal row: then the third value is what to record in it.
local function hold(now, expires_ms, head, fence, attempt, about, place, lease_ms, held_max, is_long)
  local held = redis.call('ZCARD', HELD)
  -- Locks that lapsed are still counted. They are struck out when these are as
  -- many as the account may hold, and whenever some have come, more than these: so many
  -- names that were used once are no more to keep than the locks that are held.
  if held >= held_max or held % 64 == 63 then
    held = count_live(HELD, math.floor(now / 1000))
    if held >= held_max then
      return word(held)
    end
  end
  local condition = fence and 'XX' or 'NX'
  fence = fence or next_fence(now)
  if not fence then
    return nil, nil
  end
  local line = is_long and journal_line(fence, '', '', expires_ms) or fence
  local grant = head .. granted(now, fence, line, attempt, about)
  redis.call('SET', LOCK, grant, condition, 'PX', lease_ms)
  redis.call('ZADD', HELD, expires_ms, place)
  -- The index lasts as long as the last lease in it, so that nothing is left of
  -- an account that went away. GT alone would never end one that has no end yet.
  if held == 0 then
    redis.call('PEXPIRE', HELD, lease_ms)
  else
    redis.call('PEXPIRE', HELD, lease_ms, 'GT')
  end
  return nil, fence, is_long and {'1', '', '', grant} or {}
end
