-- What it is to hold on to a lock. It stands behind hold.lua.

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
local function hold_on(now, expires_ms, head, fence, before, attempt, rest, place, lease_ms, epoch_us)
  if tonumber(fence) < tonumber(epoch_us) and before ~= '!' .. epoch_us then
    if string.sub(rest, 1, 1) == '\n' then
      -- The time of the grant does not change with its fence.
      rest = word(math.floor(tonumber(fence) / 1000)) .. rest
    end
    fence = next_fence(now)
  end
  redis.call('SET', LOCK, head .. fence .. '\n' .. attempt .. '\n' .. rest, 'PX', lease_ms)
  redis.call('ZADD', HELD, 'XX', expires_ms, place)
  redis.call('PEXPIRE', HELD, lease_ms, 'GT')
  return fence
end
