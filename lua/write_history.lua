-- Records past grants of an account's locks, for people to read. No decision about a
-- lock depends on the history.
--
-- KEYS[1] history  hash: of a lock key its last grants, the newest first, separated by
--                  '\30'. A grant is one field a line: fence, time of the grant in ms,
--                  time of its end in ms, how it ended, owner, token label, note. The
--                  end is '' until an event records it. The field '' is the size of
--                  all fields in bytes
-- KEYS[2] recorded sorted set: these lock keys, by the time in ms of their last event;
--                  and the member '', by the last time at which events were dropped
-- KEYS[3] activity hash: of a minute within the hour the minute since 1970 and the
--                  numbers of acquired, refused and rate-limited requests in it
-- ARGV[1] names_max, ARGV[2] grants_max, ARGV[3] bytes_max: the limits of lock keys, of
--         grants a lock key, and of bytes. Beyond the limits of lock keys and bytes, the
--         lock keys with the oldest last event are removed
-- ARGV[4] ttl_ms: the lifetime of the history after its last event
-- ARGV[5] '1' when the server has dropped events, '' otherwise
-- ARGV[6] acquired, ARGV[7] refused, ARGV[8] limited: to add to the current minute
-- ARGV[9...] event, lock_key, text: 'granted' with a grant as above, or 'ended' with
--            fence, time and how it ended, one field a line
--
-- Returns {'recorded'}
local now_ms = math.floor(time_us() / 1000)
local names_max, grants_max, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- The maximum number of lock keys that one call removes; later calls remove the others.
local REMOVED_MAX = 64
local bytes = tonumber(redis.call('HGET', KEYS[1], '') or 0)

-- The size of a lock key's history: both keys store the name, and Redis adds about 200
-- bytes for its structures.
local function size(lock_key, grants)
  return grants and 2 * #lock_key + #grants + 200 or 0
end

local function first_line(text)
  return string.match(text, '^[^\n]*')
end

-- The grants of a lock key after an event.
local function apply(grants, event, text)
  local fence = first_line(text)
  local updated = {}
  for grant in string.gmatch(grants, '[^\30]+') do
    if first_line(grant) == fence then
      if event == 'granted' then
        return grants
      end
      local acquired_ms, ended_ms, tail = string.match(grant, '^%d+\n(%d*)\n(%d*)\n[^\n]*\n(.*)$')
      if ended_ms == '' then
        local ended, how = string.match(text, '^%d+\n(%d+)\n(.*)$')
        grant = table.concat({fence, acquired_ms, ended, how, tail}, '\n')
      end
    end
    updated[#updated + 1] = grant
  end
  if event == 'granted' then
    table.insert(updated, 1, text)
    updated[grants_max + 1] = nil
  end
  return table.concat(updated, '\30')
end

for at = 9, #ARGV, 3 do
  local event, lock_key, text = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local before = redis.call('HGET', KEYS[1], lock_key)
  if before or event == 'granted' then
    local after = apply(before or '', event, text)
    bytes = bytes + size(lock_key, after) - size(lock_key, before)
    redis.call('HSET', KEYS[1], lock_key, after)
    redis.call('ZADD', KEYS[2], format_int(now_ms), lock_key)
  end
end
if ARGV[5] == '1' then
  redis.call('ZADD', KEYS[2], format_int(now_ms), '')
end
for _ = 1, REMOVED_MAX do
  local lock_key = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not lock_key or (redis.call('ZCARD', KEYS[2]) <= names_max and bytes <= bytes_max) then
    break
  end
  redis.call('ZREM', KEYS[2], lock_key)
  if lock_key ~= '' then
    bytes = bytes - size(lock_key, redis.call('HGET', KEYS[1], lock_key))
    redis.call('HDEL', KEYS[1], lock_key)
  end
end
redis.call('HSET', KEYS[1], '', format_int(bytes))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])

local minute = format_int(math.floor(now_ms / 60000))
local field = format_int(math.floor(now_ms / 60000) % 60)
local of, acquired, refused, limited =
  string.match(redis.call('HGET', KEYS[3], field) or '', '^(%d+) (%d+) (%d+) (%d+)$')
if of ~= minute then
  acquired, refused, limited = 0, 0, 0
end
local sums = {minute, format_int(acquired + ARGV[6]), format_int(refused + ARGV[7]), format_int(limited + ARGV[8])}
redis.call('HSET', KEYS[3], field, table.concat(sums, ' '))
redis.call('PEXPIRE', KEYS[3], '7200000')
return {'recorded'}
