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
local now = time_us()
local now_ms = math.floor(now / 1000)
local head = ARGV[1]
local has_owner = string.sub(head, -2) ~= '\n\n'
local grant = redis.call('GET', LOCK)

if grant and string.sub(grant, 1, #head) == head then
  local fence, _, until_ms, mark, attempt = read_grant(grant, #head + 1)
  if attempt == ARGV[3] and attempt ~= '' and mark ~= '#' then
    if mark == '?' and has_owner then
      -- Its place is kept, and with it what came to it.
      redis.call('PEXPIRE', LOCK, word(KEEP_MS))
      redis.call('ZREM', WAITING, ARGV[3])
      return {'left'}
    end
    redis.call('DEL', LOCK)
    redis.call('ZREM', HELD, ARGV[2])
    redis.call('ZREM', WAITING, ARGV[3])
    if until_ms ~= '' then
      end_grant(now, head, ARGV[2], fence, until_ms)
    end
    hand_over(now)
    return {mark == '?' and 'left' or 'released', fence, until_ms ~= '' and until_ms or '0'}
  end
end

local ticket = has_owner and head or head .. ARGV[3]
local record = redis.call('HGET', TICKETS, ticket)
return {leave(ticket, record, ARGV[3], now_ms) and 'left' or 'absent'}
