-- What it is to hold a lock. It stands behind keys.lua.

-- Gives the lock to an account for a lease, unless it holds as many as it may:
-- then returns how many these are, as a word, else nothing and the fence; neither
-- in a recovery. `head` is account and owner, each with its line break. With a
-- `fence` the lock was handed over under it, else it is free.
local function hold(now, head, fence, attempt, about, place, lease_ms, held_max)
  local now_ms = math.floor(now / 1000)
  local held = redis.call('ZCARD', HELD)
  -- Locks that lapsed are still counted. They are struck out when these are as
  -- many as the account may hold, and whenever a few hundred have come: so many
  -- names that were used once are no more to keep than the locks that are held.
  if held >= held_max or held % 256 == 255 then
    redis.call('ZREMRANGEBYSCORE', HELD, '-inf', '(' .. word(now_ms))
    held = redis.call('ZCARD', HELD)
    if held >= held_max then
      return word(held)
    end
  end
  local condition = fence and 'XX' or 'NX'
  fence = fence or next_fence(now)
  if not fence then
    return nil, nil
  end
  local grant = head .. table.concat({fence, attempt, word(now_ms), about}, '\n')
  redis.call('SET', LOCK, grant, condition, 'PX', lease_ms)
  redis.call('ZADD', HELD, word(now_ms + tonumber(lease_ms)), place)
  -- The index lasts as long as the last lease in it, so that nothing is left of
  -- an account that went away. GT alone would never end one that has no end yet.
  if held == 0 then
    redis.call('PEXPIRE', HELD, lease_ms)
  else
    redis.call('PEXPIRE', HELD, lease_ms, 'GT')
  end
  return nil, fence
end

-- Renews the lease of a lock for its holder, who has asked for it once more.
-- `rest` is what stands behind the attempt. The attempt that made the grant may
-- take it back only if it is the same that asks now; else none may, neither that
-- one, whose answer may have been lost, nor this one, since the holder may rely
-- on an answer to the first: then `attempt` is ''. Returns the fence.
--
-- A grant from before `epoch_us`, the time of the last recovery, is fenced anew,
-- unless `before`, what stands in place of its attempt, says that its holder has
-- sent a heartbeat since: its release may have been lost, and with it grants that
-- came after.
local function hold_on(now, head, fence, before, attempt, rest, place, lease_ms, epoch_us)
  if tonumber(fence) < tonumber(epoch_us) and before ~= '!' .. epoch_us then
    fence = next_fence(now)
  end
  redis.call('SET', LOCK, head .. fence .. '\n' .. attempt .. '\n' .. rest, 'PX', lease_ms)
  redis.call('ZADD', HELD, 'XX', word(math.floor(now / 1000) + tonumber(lease_ms)), place)
  redis.call('PEXPIRE', HELD, lease_ms, 'GT')
  return fence
end
