-- Reverts one attempt, whatever it has achieved: removes its queue entry, or ends its
-- grant. Other attempts are not affected.
--
-- KEYS[1...10] as in keys.lua
-- ARGV[1] holder_prefix, ARGV[2] lock_key, ARGV[3] attempt: as in acquire.lua
--
-- Returns one of
--   {'released', fence, until_ms}   the attempt held the lock; until_ms: the latest expiry
--                  in the journal row of the grant, '0' without a row
--   {'left', ...}  the attempt was queued, or had not claimed the lock yet
--   {'absent'}     the attempt had neither a queue entry nor a grant
--   {'unsettled'}  call again after the closed phase of the recovery, in which the grant
--                  of this attempt may be restored from the journal
-- safeguard: RevertSettled
if is_closed(redis.call('GET', CLOCK)) then
  return {'unsettled'}
end
-- safeguard end
local now = time_us()
local now_ms = math.floor(now / 1000)
local holder_prefix = ARGV[1]
local has_owner = string.sub(holder_prefix, -2) ~= '\n\n'
local entry = has_owner and holder_prefix or holder_prefix .. ARGV[3]
local grant = redis.call('GET', LOCK)

if grant and string.sub(grant, 1, #holder_prefix) == holder_prefix then
  local fence, _, until_ms, mark, attempt = read_grant(grant, #holder_prefix + 1)
  if attempt == ARGV[3] and attempt ~= '' and mark ~= '#' then
    redis.call('DEL', LOCK)
    redis.call('ZREM', HELD, ARGV[2])
    -- After a hand-over, the owner has a reservation, and the lock goes to the next
    -- request.
    leave_queue(entry, ARGV[3], now_ms)
    if until_ms ~= '' then
      add_tombstone(now, holder_prefix, ARGV[2], fence, until_ms)
    end
    hand_over(now)
    return {mark == '?' and 'left' or 'released', fence, until_ms ~= '' and until_ms or '0'}
  end
end

return {leave_queue(entry, ARGV[3], now_ms) and 'left' or 'absent'}
