-- Reads the caller of a token from the token cache: the account, and the cached entry.
--
-- KEYS[1] entry   string: the number of the last database change before the entry was
--                 read, a space, the account, a line break, and the signed entry
-- KEYS[2] floor   string: entries with a smaller number are stale
-- KEYS[3] floors  sorted set: accounts, each with the number of its last invalidated
--                 change; its entries with a smaller number are stale
--
-- Returns one of
--   {'found', seq, account, entry}   the change number, the account, and the signed entry
--   {'absent'}                       no entry, or a stale one
local entry = redis.call('GET', KEYS[1])
if not entry then
  return {'absent'}
end
local seq, account, signed_entry = string.match(entry, '^(%d+) ([^\n]*)\n(.*)$')
if not seq or tonumber(seq) < tonumber(redis.call('GET', KEYS[2]) or 0) then
  return {'absent'}
end
if tonumber(seq) < tonumber(redis.call('ZSCORE', KEYS[3], account) or 0) then
  return {'absent'}
end
return {'found', seq, account, signed_entry}
