-- Takes back one attempt, however far it came: leaves the line, or gives back
-- what it was granted. No other attempt is touched.
--
-- KEYS[1...9] as in keys.lua
-- ARGV[1] account, ARGV[2] owner, ARGV[3] place, ARGV[4] attempt: as in acquire.lua
--
-- Returns one of
--   {'released', fence}   it held the lock
--   {'left'}       it stood in line, or had the lock to collect
--   {'absent'}
local now = time_us()
local now_ms = math.floor(now / 1000)
local head = ARGV[1] .. '\n' .. ARGV[2] .. '\n'
local grant = redis.call('GET', LOCK)

if grant and string.sub(grant, 1, #head) == head then
  local fence, mark, attempt = string.match(grant, '^(%d+)\n(%??)([^\n]*)', #head + 1)
  if attempt == ARGV[4] and attempt ~= '' then
    if mark == '?' and ARGV[2] ~= '' then
      -- Its place is kept, and with it what came to it.
      redis.call('PEXPIRE', LOCK, word(KEEP_MS))
      redis.call('ZREM', WAITING, ARGV[4])
      return {'left'}
    end
    redis.call('DEL', LOCK)
    redis.call('ZREM', HELD, ARGV[3])
    redis.call('ZREM', WAITING, ARGV[4])
    hand_over(now)
    return {mark == '?' and 'left' or 'released', fence}
  end
end

local ticket = ARGV[2] == '' and head .. ARGV[4] or head
local record = redis.call('HGET', TICKETS, ticket)
return {leave(ticket, record, ARGV[4], now_ms) and 'left' or 'absent'}
