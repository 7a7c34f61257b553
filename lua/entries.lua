-- The queue entries of a lock. Included after keys.lua.

-- The lifetime of an owner's reservation after its request has ended.
local RESERVE_MS = 10000

-- The fields of an entry: attempt, pod, position and metadata; nil without an entry.
local function read_entry(entry)
  return string.match(redis.call('HGET', ENTRIES, entry) or '', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
end

-- Deletes an entry, queued or reserved.
local function remove_entry(entry)
  redis.call('ZREM', QUEUE, entry)
  redis.call('HDEL', ENTRIES, entry)
  redis.call('ZREM', RESERVED, entry)
end

-- Turns the entry of an owner without an open request into a reservation until `until_ms`.
local function reserve(entry, attempt, pod, position, metadata, until_ms)
  redis.call('ZREM', QUEUE, entry)
  redis.call('HSET', ENTRIES, entry, table.concat({attempt, pod, position, metadata}, '\n'))
  redis.call('ZADD', RESERVED, format_int(until_ms), entry)
  redis.call('PEXPIRE', RESERVED, format_int(redis.call('PTTL', ENTRIES)))
end
