-- Takes back one attempt, however far it came: leaves the line, or gives back
-- what it was granted. No other attempt is touched.
--
-- KEYS[1...10] as in keys.lua
-- ARGV[1] head, ARGV[2] place, ARGV[3] attempt: as in acquire.lua
--
-- Returns one of
--   {'released', fence, until_ms}   it held the lock; until_ms: the latest expiry in
--                  its journal row, '0' without one
--   {'left'}       it stood in line, or had the lock to collect
--   {'absent'}
--   {'unsettled'}  to be asked again, when a recovery has compared the grants with the
--                  journal: it may restore the one of this attempt
-- mend: UndoSettled
if is_closed(redis.call('GET', CLOCK)) then
  return {'unsettled'}
end
-- mend end
local now = time_us()
local now_ms = math.floor(now / 1000)
local head = ARGV[1]
local has_owner = string.sub(head, -2) ~= '\n\n'
local ticket = has_owner and head or head .. ARGV[3]
local grant = redis.call('GET', LOCK)

if grant and string.sub(grant, 1, #head) == head then
  local fence, _, until_ms, mark, attempt = read_grant(grant, #head + 1)
  if attempt == ARGV[3] and attempt ~= '' and mark ~= '#' then
    redis.call('DEL', LOCK)
    redis.call('ZREM', HELD, ARGV[2])
    -- The lock was handed to it: the position of an owner is reserved, and others have
    -- the lock meanwhile.
    leave(ticket, ARGV[3], now_ms)
    if until_ms ~= '' then
      end_grant(now, head, ARGV[2], fence, until_ms)
    end
    hand_over(now)
    return {mark == '?' and 'left' or 'released', fence, until_ms ~= '' and until_ms or '0'}
  end
end

return {leave(ticket, ARGV[3], now_ms) and 'left' or 'absent'}
