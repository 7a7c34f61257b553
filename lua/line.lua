-- The line of those who wait for a lock. It stands behind prelude.lua, before
-- the scripts that grant, release or wait. These all have the same keys in the
-- same order, which stand here, once:
--
-- KEYS[1] lock     string: the grant, one field to a line: account, owner,
--                  fence, attempt, time of the grant in ms, token label, note,
--                  info. With a '?' before the attempt it was handed to a
--                  waiter who has yet to collect it
-- KEYS[2] clock    string: the last fence given in this hash slot
-- KEYS[3] line     sorted set: the tickets of those who wait, by the time in us
--                  at which each was drawn. A ticket is account, owner and
--                  attempt; the attempt is '' for one with an owner, who has
--                  one place in a line however often it asks
-- KEYS[4] tickets  hash: of each ticket its attempt, its pod, and the time in ms
--                  until which the place is kept though nobody asks, '' while a
--                  request waits; then label, note and info as in a grant
-- KEYS[5] pods     sorted set: servers, by the time in ms until which they count
--                  as alive. A server is called as the channel it listens to
-- KEYS[6] held     sorted set: the places of the locks that the account holds in
--                  this hash slot, by the time in ms at which they lapse
-- KEYS[7] waiting  sorted set: the attempts with which the account waits, by the
--                  time in ms at which they are over, come what may
-- KEYS[8] bucket   string: the token's rate, see prelude.lua
local LOCK, CLOCK, LINE, TICKETS, PODS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local HELD, WAITING, BUCKET = KEYS[6], KEYS[7], KEYS[8]

-- How long a waiter has to collect the lock that was handed to it. Servers look
-- after their lines more often than that, so a lost message costs no place.
local COLLECT_MS = 5000
-- How long a place with an owner is kept after its request has ended.
local KEEP_MS = 10000

-- A hybrid logical clock: a fence rises even when the time is set back.
local function next_fence(now)
  local fence = word(math.max(now, tonumber(redis.call('GET', CLOCK) or 0) + 1))
  redis.call('SET', CLOCK, fence)
  return fence
end

-- Whether a server can be expected to collect. When none is heard of it is
-- Redis that was away, and no server's fault.
local function is_alive(pod, now_ms)
  local until_ms = redis.call('ZSCORE', PODS, pod)
  if until_ms and tonumber(until_ms) >= now_ms then
    return true
  end
  local newest = redis.call('ZRANGE', PODS, -1, -1, 'WITHSCORES')[2]
  return not newest or tonumber(newest) < now_ms
end

-- Hands the lock, which must be free, to the first in line who can collect it,
-- and tells its server. Returns the new grant, or nothing when nobody waits.
local function hand_over(now)
  local ticket = redis.call('ZRANGE', LINE, 0, 0)[1]
  while ticket do
    local now_ms = math.floor(now / 1000)
    local attempt, pod, kept_until_ms, about =
      string.match(redis.call('HGET', TICKETS, ticket) or '\n\n0\n', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
    redis.call('ZREM', LINE, ticket)
    redis.call('HDEL', TICKETS, ticket)
    local window_ms = 0
    if kept_until_ms ~= '' then
      window_ms = math.min(tonumber(kept_until_ms) - now_ms, KEEP_MS)
    elseif is_alive(pod, now_ms) then
      window_ms = COLLECT_MS
    end
    if window_ms > 0 then
      local account, owner = string.match(ticket, '^([^\n]*)\n([^\n]*)\n')
      local fence = next_fence(now)
      local grant = table.concat({account, owner, fence, '?' .. attempt, word(now_ms), about}, '\n')
      redis.call('SET', LOCK, grant, 'PX', word(window_ms))
      -- A hint: whether it may be sent, and arrives, is not what counts.
      redis.pcall('PUBLISH', pod, attempt)
      return grant
    end
    ticket = redis.call('ZRANGE', LINE, 0, 0)[1]
  end
  return nil
end
