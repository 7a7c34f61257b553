-- Finds what is kept of a token: whose it is, and what it allows.
--
-- KEYS[1] entry   string: the number of the change up to which the entry is
--                 true, the account, and behind a line break the entry
-- KEYS[2] floor   string: no entry from before this change is true any more
-- KEYS[3] floors  sorted set: accounts, by the number of their last change that
--                 was forgotten: entries of theirs from before it are not true
--
-- Returns one of
--   {'found', seq, account, entry}   the number, the account, and the rest
--   {'absent'}
local entry = redis.call('GET', KEYS[1])
if not entry then
  return {'absent'}
end
local seq, account, rest = string.match(entry, '^(%d+) ([^\n]*)\n(.*)$')
if not seq or tonumber(seq) < tonumber(redis.call('GET', KEYS[2]) or 0) then
  return {'absent'}
end
if tonumber(seq) < tonumber(redis.call('ZSCORE', KEYS[3], account) or 0) then
  return {'absent'}
end
return {'found', seq, account, rest}
