-- Reads the history of a lock.
--
-- KEYS[1] history, KEYS[2] recorded: as in write_history.lua
-- ARGV[1] lock_key
--
-- Returns {'found', grants, gap_ms}   both as in write_history.lua, '' for none
local grants = redis.call('HGET', KEYS[1], ARGV[1])
return {'found', grants or '', redis.call('ZSCORE', KEYS[2], '') or ''}
