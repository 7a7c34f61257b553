-- Reads the cached entry of a token: its account, and the permissions of the token.
--
-- KEYS[1] entry   string: the number of the database change up to which the entry
--                 is current, a space, the account, a line break, and the entry
-- KEYS[2] floor   string: entries older than this change are stale
-- KEYS[3] floors  sorted set: accounts, by the number of their last invalidated
--                 change; older entries of the account are stale
--
-- Returns one of
--   {'found', seq, account, entry}   the change number, the account, and the entry
--   {'absent'}                       no entry, or a stale one
local entry = redis.call('GET', KEYS[1])
if not entry then
  return {'absent'}
end
local seq, account, permissions = string.match(entry, '^(%d+) ([^\n]*)\n(.*)$')
if not seq or tonumber(seq) < tonumber(redis.call('GET', KEYS[2]) or 0) then
  return {'absent'}
end
if tonumber(seq) < tonumber(redis.call('ZSCORE', KEYS[3], account) or 0) then
  return {'absent'}
end
return {'found', seq, account, permissions}
