-- Forgets what is kept of tokens after a change, and tells all servers. They
-- learn of it from the account database, too: the message is a hint.
--
-- KEYS[1] revision  as in account_keep.lua
-- KEYS[2] floor     as in account_find.lua
-- KEYS[3...]        the entries to forget, none or more
-- ARGV[1] seq: the number of the change; '0' only asks for the last one
-- ARGV[2] '1' to forget all entries from before the change
-- ARGV[3] channel, ARGV[4] message: what to tell; nothing when empty
--
-- Returns {'forgotten', revision}   the number of the last change forgotten
local seq = tonumber(ARGV[1])
local revision = tonumber(redis.call('GET', KEYS[1]) or 0)
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)

-- With its memory full Redis lets a script go on that has begun with deleting:
-- a token can be revoked then, too.
for at = 3, #KEYS do
  redis.call('DEL', KEYS[at])
end
if seq > revision then
  revision = seq
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], word(revision))
end
if ARGV[2] == '1' and seq > floor then
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[2], word(seq))
end
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return {'forgotten', word(revision)}
