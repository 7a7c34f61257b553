-- Says who waits for some locks.
--
-- KEYS[1], KEYS[2] line and tickets of the first lock, KEYS[3], KEYS[4] those of
-- the second, and so on: as in keys.lua
-- ARGV[1] waiters_max: how many of each line to name
--
-- Returns {'found', waiting, named, ticket, record, ...} for each lock: how many
-- wait, how many of them are named, and of these the ticket and what is kept of
-- it, '' if that is gone
local found = {'found'}
for at = 1, #KEYS, 2 do
  local tickets = redis.call('ZRANGE', KEYS[at], 0, word(ARGV[1] - 1))
  found[#found + 1] = word(redis.call('ZCARD', KEYS[at]))
  found[#found + 1] = word(#tickets)
  for _, ticket in ipairs(tickets) do
    found[#found + 1] = ticket
    found[#found + 1] = redis.call('HGET', KEYS[at + 1], ticket) or ''
  end
end
return found
