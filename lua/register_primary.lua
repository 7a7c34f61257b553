-- Compares the Redis process that has the data with the process of the last grants. If the
-- process has changed or the data is lost, grants may have been lost: the script begins a
-- recovery, in which nothing is granted.
--
-- KEYS[1] primary  string: process, store, founded, begun and epoch, separated by spaces
--                  - process: the identity in Redis's INFO: run_id and master_replid,
--                    separated by a space
--                  - store: a random name that the data received when it was new.
--                    Another name means other data
--                  - founded: the epoch at that time
--                  - begun: the time in us at which the last recovery began
--                  - epoch: a number above that of each earlier recovery. Grants from
--                    before the recovery have smaller fences
-- KEYS[2] clock, as in keys.lua
-- ARGV[1] process: the current process
-- ARGV[2] former: the previous identity of the process, if it certainly is the same
--         process and has lost nothing; '' otherwise
-- ARGV[3] floor_us: the epoch of an earlier recovery, of this data or other data; '0' for
--         none. The current epoch must be larger
-- ARGV[4] store: the name for new data
-- ARGV[5] the store in which the server has seen the fence ARGV[6], '0' for none
-- ARGV[7] '1' to continue a recovery that has begun, with a larger epoch; '' otherwise
-- ARGV[8] begun: the beginning of a recovery that does not count, whatever its epoch;
--         '' for none
-- ARGV[9], ARGV[10] after a jump of the clock: a recovery that began between these times
--         may have begun before the jump and does not count either; '' for no jump
--
-- Returns one of
--   {'open', primary}
--   {'waiting', primary, remaining_ms}   the time until the first new grant
--   {'closed', primary, reason}          the journaled grants must be restored. reason:
--                                        why this call began a recovery; '' otherwise
local now = time_us()
local primary, clock = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local process, store, founded, begun, epoch = string.match(primary or '', '^(.*) (%S+) (%d+) (%d+) (%d+)$')
local fence = string.match(clock or '0', '^%d+')
-- Fences never fall, unless an earlier state of the data was restored.
local is_cut_back = store == ARGV[5] and tonumber(fence) < tonumber(ARGV[6])
local is_before_jump = begun and ARGV[9] ~= '' and tonumber(begun) >= tonumber(ARGV[9])
  and tonumber(begun) <= tonumber(ARGV[10])
if process and process == ARGV[2] and process ~= ARGV[1] then
  primary = table.concat({ARGV[1], store, founded, begun, epoch}, ' ')
  redis.call('SET', KEYS[1], primary)
elseif not clock or process ~= ARGV[1] or tonumber(epoch) <= tonumber(ARGV[3]) or begun == ARGV[8]
  or is_before_jump or is_cut_back then
  local continues = ARGV[7] == '1' and process == ARGV[1] and clock and string.find(clock, ' closed', 1, true)
  epoch = format_int(math.max(now, tonumber(epoch or 0) + 1, tonumber(ARGV[3]) + 1))
  begun = continues and begun or format_int(now)
  primary = table.concat({ARGV[1], store or ARGV[4], founded or epoch, begun, epoch}, ' ')
  -- safeguard: RollbackOnce
  -- The clock stores the larger fence, so that the next comparison does not begin another
  -- recovery.
  if is_cut_back then
    fence = ARGV[6]
  end
  -- safeguard end
  -- DEL comes first: when its memory is full, Redis refuses a script whose first write
  -- needs memory, and accepts such writes after another write.
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[2], fence .. ' closed')
  redis.call('SET', KEYS[1], primary)
  local reason = is_cut_back and 'the data was rolled back' or 'another process has the data'
  return {'closed', primary, continues and '' or clock and reason or 'the data is lost'}
end

if string.find(clock, ' closed', 1, true) then
  return {'closed', primary, ''}
end
local until_ms = tonumber(string.match(clock, ' (%d+)$') or 0)
local remaining_ms = until_ms - math.floor(now / 1000)
if remaining_ms > 0 then
  return {'waiting', primary, format_int(remaining_ms)}
end
return {'open', primary}
