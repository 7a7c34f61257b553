-- Restores grants from the journal: those that the store has lost, or of which it
-- has an older state, and ends those that the journal knows to have ended, or to have
-- been followed by another.
--
-- KEYS[1] home: as in register_primary.lua, KEYS[2] clock, KEYS[3] ended: as in keys.lua; then
-- for each row KEYS[n] lock, KEYS[n + 1] held: as in keys.lua
-- ARGV[1] home: that of the recovery that is meant
-- ARGV[2...] for each row its place, fence, seq, the expiry in ms, and the grant as it
--            stands in `lock`, '' when it has ended
--
-- Returns one of
--   {'restored', count, account, place...}   with the accounts that have lost a grant
--                  here and still have its place in `held`, which is not among the keys
--   {'over'}   the recovery has gone on without this
local clock = redis.call('GET', KEYS[2])
local last = tonumber(string.match(clock or '', '^(%d+) closed$'))
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not last then
  return {'over'}
end

local now_ms = math.floor(time_us() / 1000)
local function present_of(lock)
  local grant = redis.call('GET', lock)
  local head, account = string.match(grant or '', '^(([^\n]*)\n[^\n]*\n)')
  if not head then
    return 0, 0
  end
  local fence, seq = read_grant(grant, #head + 1)
  return tonumber(fence), tonumber(seq) or 0, account
end

local restored, unindexed = 0, {}
local function unindex(account, place)
  unindexed[#unindexed + 1] = account
  unindexed[#unindexed + 1] = place
end
for at = 1, (#KEYS - 3) / 2 do
  local lock, held = KEYS[2 * at + 2], KEYS[2 * at + 3]
  local place, fence, seq, expires_ms, grant = unpack(ARGV, 5 * at - 3, 5 * at + 1)
  local rest_ms = tonumber(expires_ms) - now_ms
  local present, present_seq, account = present_of(lock)
  fence = tonumber(fence)
  last = math.max(last, fence)
  local is_over = grant == '' and present == fence
  -- mend: OlderRemoved
  -- The lock was granted anew since, so this one had ended, whatever became of that.
  is_over = is_over or (account and present < fence and (grant == '' or rest_ms <= 0))
  -- mend end
  if is_over then
    redis.call('DEL', lock)
    unindex(account, place)
  elseif grant ~= '' and rest_ms > 0 and (fence > present or (fence == present and tonumber(seq) > present_seq))
    and not redis.call('ZSCORE', KEYS[3], word(fence) .. ' ' .. string.match(grant, '^[^\n]*') .. ' ' .. place) then
    redis.call('SET', lock, grant, 'PX', word(rest_ms))
    restored = restored + 1
    if account then
      unindex(account, place)
    end
    redis.call('ZADD', held, expires_ms, place)
    if redis.call('PTTL', held) < rest_ms then
      redis.call('PEXPIRE', held, word(rest_ms))
    end
  end
end
redis.call('SET', KEYS[2], word(last) .. ' closed')
return {'restored', word(restored), unpack(unindexed)}
