-- The keys of the scripts that grant, release or wait: the same for all of them,
-- in the same order. They stand here, once, behind prelude.lua. Each takes Redis a
-- while with every request, so acquire.lua and release.lua may be given the first
-- four alone, for a request that is paid for and does not wait. Where these are not
-- enough they return {'too_few_keys', '0'}, and have done nothing.
--
-- KEYS[1] lock     string: the grant, one field to a line: account, owner,
--                  fence, attempt, time of the grant in ms, token, note, info. Of
--                  the token its label and, behind a tab, the end of its id.
--                  The time is '' where it is that of the fence; behind it stand '@'
--                  and the lease in ms that the holder asked for last, if it did. What
--                  is '' at the end is left out. Behind the fence of a grant
--                  that has a row in the journal stand the sequence number of
--                  its last change there and the latest expiry in ms that a
--                  change has named, each after a space. With a '?' before the
--                  attempt it was handed to a waiter who has yet to collect it;
--                  with a '#' it was broken, and the lock is free once the
--                  journal has recorded that. The attempt is '' once its owner
--                  has shown that it knows of the grant; '!' and an epoch if it
--                  has sent a heartbeat since that recovery began. Every byte of
--                  this key and its value is there for each lock that is held,
--                  so its kind is called 'l'
-- KEYS[2] clock    string: the last fence given in this hash slot. In a recovery
--                  it goes on with a space, and 'closed' until what is known of
--                  long leases has been put back, then the time in ms until
--                  which nothing is granted. It is never absent, unless all that
--                  stood here was lost: then nothing is granted either
-- KEYS[3] held     sorted set: the places of the locks that the account holds in
--                  this hash slot, by the time in ms at which they lapse
-- KEYS[4] line     sorted set: the tickets for which a request is open, by their
--                  position, the time in us at which each was drawn. A ticket is
--                  account, owner and attempt; the attempt is '' for one with an
--                  owner, who has one position however often it asks
-- KEYS[5] tickets  hash: of each ticket its attempt, its pod, and its position, ''
--                  while it stands in `line`, 'x' when its owner has cancelled it
--                  and its request does not know yet; then, as in a grant, the lease
--                  that is asked for behind '@', token, note and info. The other two keys
--                  lapse with this one
-- KEYS[6] kept     sorted set: the tickets of owners without an open request, whose
--                  positions are reserved, by the time in ms until which they are.
--                  Nobody waits for them: they are passed over
-- KEYS[7] pods     sorted set: servers, by the time in ms until which they count
--                  as alive. A server is called as the channel it listens to
-- KEYS[8] waiting  sorted set: the attempts with which the account waits, by the
--                  time in ms at which they are over, come what may
-- KEYS[9] ended    sorted set: grants that have ended and whose journal row may not
--                  say so yet, as fence, account and place with spaces between, by
--                  the latest expiry in ms that the row can have. A recovery does
--                  not restore them
-- KEYS[10] bucket  string: the account's rate, see prelude.lua; left out where the
--                  request is paid for, as what few requests need costs all
local LOCK, CLOCK, HELD, LINE, TICKETS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local KEPT, PODS, WAITING, ENDED, BUCKET = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]

-- Counts the members of an account's index that have not lapsed, and takes out of it those
-- that have: a few of them, so that no script takes long, however many lapse at once.
local function count_live(index, now_ms)
  local most = 128
  local gone = redis.call('ZRANGEBYSCORE', index, '-inf', word(now_ms - 1), 'LIMIT', '0', word(most))
  for _, member in ipairs(gone) do
    redis.call('ZREM', index, member)
  end
  if #gone < most then
    return redis.call('ZCARD', index)
  end
  return redis.call('ZCOUNT', index, word(now_ms), '+inf')
end

-- A hybrid logical clock: a fence rises even when the time is set back. In a
-- recovery there is none to be had.
local function next_fence(now)
  -- The time is nearly always what the clock is to say, so it is set to that in
  -- the same call that reads it, and corrected where it must not say so.
  local fence = word(now)
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
  fence = word(math.max(now, last + 1))
  redis.call('SET', CLOCK, fence)
  return fence
end
