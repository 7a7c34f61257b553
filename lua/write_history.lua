-- Puts on record what became of locks of an account, for people to read. It says
-- nothing about who holds a lock, and nothing is decided by it.
--
-- KEYS[1] history  hash: of a place its last grants, the newest first, with '\30'
--                  between them. A grant is one field to a line: fence, time of
--                  the grant in ms, time of its end in ms, how it ended, owner,
--                  token label, note. The end is '' as long as nobody saw it. Under
--                  '' how many bytes all places take
-- KEYS[2] recorded sorted set: these places, by the time in ms of the last of it;
--                  and under '' the last time at which something was left out
-- KEYS[3] activity hash: of a minute within the hour the minute since 1970, and
--                  how many were acquired, refused, and over the rate in it
-- ARGV[1] names_max, ARGV[2] grants_max, ARGV[3] bytes_max: how much to keep. Beyond
--         names and bytes the places go of which the last thing was longest ago
-- ARGV[4] keep_ms: for how long at most
-- ARGV[5] '1' when something was left out, '' if not
-- ARGV[6] acquired, ARGV[7] refused, ARGV[8] limited: to be counted in this minute
-- ARGV[9...] event, place, text: 'granted' with a grant as above, or 'ended' with
--            fence, time and how, one to a line
--
-- Returns {'recorded'}
local now_ms = math.floor(time_us() / 1000)
local names_max, grants_max, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- How many places one run drops: if there are more, the next runs go on.
local DROPPED_MAX = 64
local bytes = tonumber(redis.call('HGET', KEYS[1], '') or 0)

-- What a place takes. Its name stands in both keys, and each has a structure of its own.
local function size(place, grants)
  return grants and 2 * #place + #grants + 200 or 0
end

local function first_line(text)
  return string.match(text, '^[^\n]*')
end

-- The grants as they are after an event.
local function changed(grants, event, text)
  local fence = first_line(text)
  local kept = {}
  for grant in string.gmatch(grants, '[^\30]+') do
    if first_line(grant) == fence then
      if event == 'granted' then
        return grants
      end
      local acquired_ms, ended_ms, rest = string.match(grant, '^%d+\n(%d*)\n(%d*)\n[^\n]*\n(.*)$')
      if ended_ms == '' then
        local ended, how = string.match(text, '^%d+\n(%d+)\n(.*)$')
        grant = table.concat({fence, acquired_ms, ended, how, rest}, '\n')
      end
    end
    kept[#kept + 1] = grant
  end
  if event == 'granted' then
    table.insert(kept, 1, text)
    kept[grants_max + 1] = nil
  end
  return table.concat(kept, '\30')
end

for at = 9, #ARGV, 3 do
  local event, place, text = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local before = redis.call('HGET', KEYS[1], place)
  if before or event == 'granted' then
    local after = changed(before or '', event, text)
    bytes = bytes + size(place, after) - size(place, before)
    redis.call('HSET', KEYS[1], place, after)
    redis.call('ZADD', KEYS[2], word(now_ms), place)
  end
end
if ARGV[5] == '1' then
  redis.call('ZADD', KEYS[2], word(now_ms), '')
end
for _ = 1, DROPPED_MAX do
  local place = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not place or (redis.call('ZCARD', KEYS[2]) <= names_max and bytes <= bytes_max) then
    break
  end
  redis.call('ZREM', KEYS[2], place)
  if place ~= '' then
    bytes = bytes - size(place, redis.call('HGET', KEYS[1], place))
    redis.call('HDEL', KEYS[1], place)
  end
end
redis.call('HSET', KEYS[1], '', word(bytes))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])

local minute = word(math.floor(now_ms / 60000))
local field = word(math.floor(now_ms / 60000) % 60)
local of, acquired, refused, limited =
  string.match(redis.call('HGET', KEYS[3], field) or '', '^(%d+) (%d+) (%d+) (%d+)$')
if of ~= minute then
  acquired, refused, limited = 0, 0, 0
end
local sums = {minute, word(acquired + ARGV[6]), word(refused + ARGV[7]), word(limited + ARGV[8])}
redis.call('HSET', KEYS[3], field, table.concat(sums, ' '))
redis.call('PEXPIRE', KEYS[3], '7200000')
return {'recorded'}
