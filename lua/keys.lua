-- The keys of all scripts that grant, release or queue, in one order. Included after
-- prelude.lua. Each key adds to the time that Redis spends on a request: so acquire.lua
-- and release.lua accept the first four alone for a request that is paid for and does
-- not wait. When these do not suffice, the scripts return {'too_few_keys', '0'} and
-- change nothing.
--
-- KEYS[1] lock     string: the grant, one field a line: account, owner, fence,
--                  attempt, time of the grant in ms, token, note, info.
--                  - fence: for a grant with a journal row, followed by the sequence
--                    number of its last change there and the latest expiry in ms of
--                    all its changes, each after a space
--                  - attempt: '?' before it marks a hand-over that the queued request
--                    has not claimed yet, '#' a broken grant, whose lock becomes free
--                    when the journal has recorded the end. The attempt is '' once its
--                    owner has confirmed the grant. Once the owner has sent a heartbeat
--                    after the recovery of an epoch, it is that epoch after '!' if the
--                    heartbeat had the fence, or after '-'
--                  - time: '' when it equals the fence; then '@' and the last lease
--                    in ms that the holder requested, if any
--                  - token: its label, a tab, and the end of its id
--                  Empty fields at the end are omitted. Redis stores every byte of this
--                  key and value for each held lock, so the kind of the key is 'l'
-- KEYS[2] clock    string: the last fence of this hash slot. In a recovery, a space and
--                  'closed' follow until the journaled grants are restored, then a space
--                  and the time in ms of the first new grant. Without this key, the
--                  data is lost, and nothing is granted
-- KEYS[3] held     sorted set: the lock keys that the account holds in this hash slot,
--                  by the expiry in ms
-- KEYS[4] queue    sorted set: the entries with an open request, by their position: the
--                  time in us at which the entry was added. An entry is account, owner
--                  and attempt; the attempt is '' for an owner, which has one position,
--                  however many requests it sends
-- KEYS[5] entries  hash: of each entry, queued or reserved, the attempt, the pod, the
--                  position and the metadata. The position is '' while the entry is in
--                  `queue`, and 'x' after its owner has cancelled it, until its request
--                  has read that. The metadata are as in a grant: '@' and the requested
--                  lease, token, note, info. `queue` and `reserved` expire with this key
-- KEYS[6] reserved sorted set: the reservations, which are entries of owners without an
--                  open request, by their expiry in ms. A hand-over skips them
-- KEYS[7] pods     sorted set: the channels of servers, by the time in ms until which
--                  the server counts as alive
-- KEYS[8] waiting  sorted set: the attempts of the account that wait, by the time in ms
--                  after which the wait is over in any case
-- KEYS[9] ended    sorted set: the tombstones, one for each ended grant whose journal row
--                  may lack the end: fence, account and lock key, separated by spaces,
--                  by the latest expiry in ms of the row. A recovery does not restore
--                  these grants
-- KEYS[10] bucket  string: the account's rate, see prelude.lua; omitted when the request
--                  is paid for, which nearly all requests are
local LOCK, CLOCK, HELD, QUEUE, ENTRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local RESERVED, PODS, WAITING, ENDED, BUCKET = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]

-- Counts the unexpired members of an account's index, and removes up to 128 expired ones:
-- the limit bounds the time of the script.
local function count_live(index, now_ms)
  local max = 128
  local expired = redis.call('ZRANGEBYSCORE', index, '-inf', format_int(now_ms - 1), 'LIMIT', '0', format_int(max))
  for _, member in ipairs(expired) do
    redis.call('ZREM', index, member)
  end
  if #expired < max then
    return redis.call('ZCARD', index)
  end
  return redis.call('ZCOUNT', index, format_int(now_ms), '+inf')
end

-- The next fence, by a hybrid logical clock: fences rise even when the time is set back.
-- Returns nil in a recovery.
local function next_fence(now)
  -- The time nearly always exceeds the last fence, so one SET with GET writes it and reads
  -- the last fence. The other cases restore or correct the key.
  local fence = format_int(now)
  local clock = redis.call('SET', CLOCK, fence, 'GET')
  local last = tonumber(clock)
  if last and last < now then
    return fence
  end
  if not last then
    local given, until_ms = string.match(clock or '', '^(%d+) (%d+)$')
    if not given or now < tonumber(until_ms) * 1000 then
      if clock then
        redis.call('SET', CLOCK, clock)
      else
        redis.call('DEL', CLOCK)
      end
      return nil
    end
    last = tonumber(given)
  end
  fence = format_int(math.max(now, last + 1))
  redis.call('SET', CLOCK, fence)
  return fence
end
