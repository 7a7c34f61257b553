-- A repeated claim. Included after regrant.lua.

-- Renews the lease for a queued request whose owner already holds the lock: the first answer was
-- lost, or another request of the owner was granted first. Returns the reply of claim.lua.
local function claim_again(now, holder_prefix, grant, own_attempt, lock_key, lease_ms, epoch_us, is_journaled, metadata)
  local fence, _, until_ms, _, attempt = read_grant(grant, #holder_prefix + 1)
  local kept_attempt, ttl_ms = '', redis.call('PTTL', LOCK)
  if attempt == own_attempt then
    kept_attempt = attempt
  -- safeguard: LaterLeaseKept
  elseif ttl_ms > tonumber(lease_ms) and (tonumber(fence) >= tonumber(epoch_us)
    or attempt == '!' .. epoch_us or attempt == '-' .. epoch_us) then
    -- The longer lease was confirmed after this request was sent: it is not shortened.
    lease_ms, metadata, is_journaled = format_int(ttl_ms), '', is_journaled or until_ms ~= ''
  -- safeguard end
  end
  local expires_ms, change = format_int(math.floor(now / 1000) + tonumber(lease_ms)), nil
  fence, change =
    regrant(now, expires_ms, holder_prefix, grant, kept_attempt, lock_key, lease_ms, epoch_us, is_journaled, metadata)
  return {kept_attempt == '' and 'again' or 'granted', fence, expires_ms, unpack(change)}
end
