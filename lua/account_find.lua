-- Finds what is kept of a token: whose it is, and what it allows.
--
-- KEYS[1] entry  string: the number of the change up to which the entry is
--                true, a line break, and the entry
-- KEYS[2] floor  string: entries from before this change are not true any more
--
-- Returns one of
--   {'found', entry}   without the number
--   {'absent'}
local entry = redis.call('GET', KEYS[1])
if not entry then
  return {'absent'}
end
local seq, rest = string.match(entry, '^(%d+)\n(.*)$')
if not seq or tonumber(seq) < tonumber(redis.call('GET', KEYS[2]) or 0) then
  return {'absent'}
end
return {'found', rest}
