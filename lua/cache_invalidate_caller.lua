-- Invalidates the token cache entries of changed accounts, and notifies all servers. The
-- message only saves time: servers also poll the account database for changes. The
-- script raises one number for each changed account, so its cost does not depend on the
-- number of tokens, and entries of other accounts stay valid.
--
-- KEYS[1] revision  string: the number of the last invalidated change
-- KEYS[2] floor, KEYS[3] floors: as in cache_get_caller.lua
-- KEYS[4]           optional: an entry to delete
-- ARGV[1] scope: 'accounts' for a part of the changed accounts if more parts follow;
--         'change' for the last part; 'all' for a change that may affect all
--         accounts; 'nothing' to read only the revision
-- ARGV[2] seq: the number of the change
-- ARGV[3] channel, ARGV[4] message: the notification; an empty message is not published
-- ARGV[5] accounts_max: the maximum size of `floors`. If the script removes an account
--         from it, it raises `floor` to the number of that account. Entries of all
--         accounts with a smaller number are then stale
-- ARGV[6] ttl_ms: the lifetime of a cached entry
-- ARGV[7...] the changed accounts
--
-- Returns {'invalidated', revision, before}   the revision after and before this call
local scope, seq = ARGV[1], tonumber(ARGV[2])
local before = tonumber(redis.call('GET', KEYS[1]) or 0)
local revision = before
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)

-- With full memory, Redis rejects writes of a script until the script has deleted a key.
-- The script therefore deletes first, so that a token can be revoked with full memory.
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
return {'invalidated', format_int(revision), format_int(before)}
