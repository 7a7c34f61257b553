-- Forgets what is kept of tokens after a change, and tells all servers. They
-- learn of it from the account database, too: the message is a hint. What is kept
-- of other accounts stays, however many tokens the changed ones have.
--
-- KEYS[1] revision  string: the number of the last change that was forgotten
-- KEYS[2] floor, KEYS[3] floors: as in account_find.lua
-- KEYS[4]           one entry to forget; left out where there is none
-- ARGV[1] what: 'accounts' of a change, of which more follow; 'change' for the last
--         of them; 'all' for a change that may concern all accounts; 'nothing' to
--         ask for the last change that was forgotten
-- ARGV[2] seq: the number of the change
-- ARGV[3] channel, ARGV[4] message: what to tell; nothing when empty
-- ARGV[5] accounts_max: of how many accounts to keep the number of their last
--         change. For the others the floor rises: tokens that were last read from
--         the database before that are read again
-- ARGV[6] keep_ms: for how long an entry is kept
-- ARGV[7...] the accounts that have changed
--
-- Returns {'forgotten', revision, before}   what it is now, and was before
local what, seq = ARGV[1], tonumber(ARGV[2])
local before = tonumber(redis.call('GET', KEYS[1]) or 0)
local revision = before
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)

-- With its memory full Redis lets a script go on that has begun with deleting:
-- a token can be revoked then, too.
local function put(key, number)
  redis.call('DEL', key)
  redis.call('SET', key, word(number))
end

if KEYS[4] then
  redis.call('DEL', KEYS[4])
end
for at = 7, #ARGV do
  if tonumber(redis.call('ZSCORE', KEYS[3], ARGV[at]) or 0) < seq then
    redis.call('ZREM', KEYS[3], ARGV[at])
    redis.call('ZADD', KEYS[3], word(seq), ARGV[at])
  end
end
local too_many = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[5])
if too_many > 0 then
  local oldest = redis.call('ZRANGE', KEYS[3], 0, word(too_many - 1), 'WITHSCORES')
  for at = 1, #oldest, 2 do
    redis.call('ZREM', KEYS[3], oldest[at])
    if tonumber(oldest[at + 1]) > floor then
      floor = tonumber(oldest[at + 1])
      put(KEYS[2], floor)
    end
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[6])
if (what == 'change' or what == 'all') and seq > revision then
  revision = seq
  put(KEYS[1], revision)
end
if what == 'all' and seq > floor then
  put(KEYS[2], seq)
end
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return {'forgotten', word(revision), word(before)}
