-- The tickets of those who wait for a lock. It stands behind keys.lua.

-- How long a position with an owner is reserved after its request has ended.
local KEEP_MS = 10000

-- What is kept of a ticket: attempt, pod, position and the rest; nothing for none.
local function read_ticket(ticket)
  return string.match(redis.call('HGET', TICKETS, ticket) or '', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
end

-- Takes a ticket out of the line.
local function drop_ticket(ticket)
  redis.call('ZREM', LINE, ticket)
  redis.call('HDEL', TICKETS, ticket)
  redis.call('ZREM', KEPT, ticket)
end

-- Reserves the position of an owner who has no request open, until then.
local function reserve(ticket, attempt, pod, position, about, until_ms)
  redis.call('ZREM', LINE, ticket)
  redis.call('HSET', TICKETS, ticket, table.concat({attempt, pod, position, about}, '\n'))
  redis.call('ZADD', KEPT, word(until_ms), ticket)
  redis.call('PEXPIRE', KEPT, word(redis.call('PTTL', TICKETS)))
end
