-- Invalidates cached token entries after a change of accounts, and notifies all
-- servers. The message is a hint: servers read changes from the account database,
-- too. Entries of other accounts stay cached, however many tokens the changed
-- accounts have.
--
-- KEYS[1] revision  string: the number of the last invalidated change
-- KEYS[2] floor, KEYS[3] floors: as in account_find.lua
-- KEYS[4]           optional: an entry to delete
-- ARGV[1] scope: 'accounts' for one part of a change, when more parts follow;
--         'change' for the last part; 'all' for a change that may concern all
--         accounts; 'nothing' to read the revision only
-- ARGV[2] seq: the number of the change
-- ARGV[3] channel, ARGV[4] message: what to publish; '' for nothing
-- ARGV[5] accounts_max: the size limit of `floors`. When it evicts an account,
--         `floor` rises to the number of that account: entries of all accounts
--         that are older than this are read from the database again
-- ARGV[6] ttl_ms: the lifetime of a cached entry
-- ARGV[7...] the changed accounts
--
-- Returns {'forgotten', revision, before}   the revision now, and before this call
local scope, seq = ARGV[1], tonumber(ARGV[2])
local before = tonumber(redis.call('GET', KEYS[1]) or 0)
local revision = before
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)

-- When its memory is full, Redis lets a script write after its first deletion. So
-- deletions come first, and a token can be revoked with a full memory.
local function put(key, number)
  redis.call('DEL', key)
  redis.call('SET', key, format_int(number))
end

if KEYS[4] then
  redis.call('DEL', KEYS[4])
end
for at = 7, #ARGV do
  if tonumber(redis.call('ZSCORE', KEYS[3], ARGV[at]) or 0) < seq then
    redis.call('ZREM', KEYS[3], ARGV[at])
    redis.call('ZADD', KEYS[3], format_int(seq), ARGV[at])
  end
end
local excess = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[5])
if excess > 0 then
  local oldest = redis.call('ZRANGE', KEYS[3], 0, format_int(excess - 1), 'WITHSCORES')
  for at = 1, #oldest, 2 do
    redis.call('ZREM', KEYS[3], oldest[at])
    if tonumber(oldest[at + 1]) > floor then
      floor = tonumber(oldest[at + 1])
      put(KEYS[2], floor)
    end
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[6])
if (scope == 'change' or scope == 'all') and seq > revision then
  revision = seq
  put(KEYS[1], revision)
end
if scope == 'all' and seq > floor then
  put(KEYS[2], seq)
end
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return {'forgotten', format_int(revision), format_int(before)}
