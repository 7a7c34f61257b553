-- Compares the process that has the data with the one in which grants were made
-- last. Where it is another, or the data is gone, grants may have been forgotten:
-- from then on nothing is granted until the recovery that begins here is over.
--
-- KEYS[1] home  string: process, store, founded, begun and epoch, with spaces between. The
--               process is what Redis says of itself: run_id and master_replid, with
--               a space between. The store is a name that this data got when it was
--               new, and founded the epoch of then: whoever finds another name here
--               has other data. Begun is the time in us at which the recovery began
--               since which it is home, and the epoch a number above that of each
--               recovery before: grants from before have smaller fences
-- KEYS[2] clock, as in keys.lua
-- ARGV[1] process: who this is
-- ARGV[2] former: what it was called a moment ago, when it is sure that it is
--         the same and has lost nothing; '' otherwise
-- ARGV[3] floor_us: an epoch that was before this one, wherever it was; or '0'
-- ARGV[4] store: the name to give it if it has none
-- ARGV[5] the store in which the server has seen ARGV[6], a fence, or '0'
-- ARGV[7] '1' when the recovery goes on that has begun, with a larger epoch; or ''
-- ARGV[8] begun: the beginning of a recovery that must not be the last one, however
--         large its epoch is by now; or ''
-- ARGV[9], ARGV[10] after a leap of the clock: a recovery that began between these times
--         may have begun before it, and cannot be the last one either; or ''
--
-- Returns one of
--   {'open', home}
--   {'waiting', home, rest_ms}   grants are made after that time
--   {'closed', home, reason}     long leases are to be put back; the reason stands
--                                there for who was the first to notice
local now = time_us()
local home, clock = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local process, store, founded, begun, epoch = string.match(home or '', '^(.*) (%S+) (%d+) (%d+) (%d+)$')
local fence = string.match(clock or '0', '^%d+')
-- The clock never falls, unless an earlier state of the data was put back.
local is_cut_back = store == ARGV[5] and tonumber(fence) < tonumber(ARGV[6])
local is_before_leap = begun and ARGV[9] ~= '' and tonumber(begun) >= tonumber(ARGV[9])
  and tonumber(begun) <= tonumber(ARGV[10])
if process and process == ARGV[2] and process ~= ARGV[1] then
  home = table.concat({ARGV[1], store, founded, begun, epoch}, ' ')
  redis.call('SET', KEYS[1], home)
elseif not clock or process ~= ARGV[1] or tonumber(epoch) <= tonumber(ARGV[3]) or begun == ARGV[8]
  or is_before_leap or is_cut_back then
  local goes_on = ARGV[7] == '1' and process == ARGV[1] and clock and string.find(clock, ' closed', 1, true)
  epoch = word(math.max(now, tonumber(epoch or 0) + 1, tonumber(ARGV[3]) + 1))
  home = table.concat({ARGV[1], store or ARGV[4], founded or epoch, goes_on and begun or word(now), epoch}, ' ')
  -- mend: CutBackOnce
  -- The store keeps the larger fence, so that the next comparison begins no further recovery.
  if is_cut_back then
    fence = ARGV[6]
  end
  -- mend end
  -- DEL stands first: with its memory full Redis lets a script go on that has
  -- begun to write, but not begin with a write that may need memory.
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[2], fence .. ' closed')
  redis.call('SET', KEYS[1], home)
  local reason = is_cut_back and 'the data is older than it was' or 'another process has the data'
  return {'closed', home, goes_on and '' or clock and reason or 'the data is gone'}
end

if string.find(clock, ' closed', 1, true) then
  return {'closed', home, ''}
end
local until_ms = tonumber(string.match(clock, ' (%d+)$') or 0)
local rest_ms = until_ms - math.floor(now / 1000)
if rest_ms > 0 then
  return {'waiting', home, word(rest_ms)}
end
return {'open', home}
