-- A repeated claim. Included after regrant.lua.

-- Renews the lease for a queued request whose owner already holds the lock: the first answer was
-- lost, or another request of the owner was granted first. Returns the reply of claim.lua.
local function collected_again(now, head, grant, own_attempt, place, lease_ms, epoch_us, is_long, about)
  local fence, _, until_ms, _, attempt = read_grant(grant, #head + 1)
  local kept, rest_ms = '', redis.call('PTTL', LOCK)
  if attempt == own_attempt then
    kept = attempt
  -- mend: LaterLeaseKept
  elseif rest_ms > tonumber(lease_ms) and (tonumber(fence) >= tonumber(epoch_us) or attempt == '!' .. epoch_us) then
    -- That lease was confirmed after this request was sent: it is not shortened.
    lease_ms, about, is_long = word(rest_ms), '', is_long or until_ms ~= ''
  -- mend end
  end
  local expires_ms, record = word(math.floor(now / 1000) + tonumber(lease_ms)), nil
  fence, record = hold_on(now, expires_ms, head, grant, kept, place, lease_ms, epoch_us, is_long, about)
  return {kept == '' and 'again' or 'granted', fence, expires_ms, unpack(record)}
end
