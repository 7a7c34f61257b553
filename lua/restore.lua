-- Restores grants from the journal that the store has lost, or of which it has an older
-- state. Deletes grants that have ended according to the journal, or were followed by
-- another grant.
--
-- KEYS[1] primary: as in register_primary.lua, KEYS[2] clock, KEYS[3] ended: as in keys.lua;
-- then for each journal row KEYS[n] lock, KEYS[n + 1] held: as in keys.lua
-- ARGV[1] primary: the value that identifies the recovery
-- ARGV[2...] for each journal row its lock key, fence, seq, the expiry in ms, and the
--            grant as in `lock`, '' for an ended one
--
-- Returns one of
--   {'restored', count, account, lock_key...}   with the pairs of account and lock key
--                  that the caller must remove from `held`: this key of an account that
--                  has lost a grant is not among the script's keys
--   {'over'}   the recovery has ended, or a new one has begun
local clock = redis.call('GET', KEYS[2])
local last = tonumber(string.match(clock or '', '^(%d+) closed$'))
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not last then
  return {'over'}
end

local now_ms = math.floor(time_us() / 1000)
-- The fence, seq and account of the grant in the store; 0 and 0 for none.
local function read_stored(lock)
  local grant = redis.call('GET', lock)
  local holder_prefix, account = string.match(grant or '', '^(([^\n]*)\n[^\n]*\n)')
  if not holder_prefix then
    return 0, 0
  end
  local fence, seq = read_grant(grant, #holder_prefix + 1)
  return tonumber(fence), tonumber(seq) or 0, account
end

local restored, unindexed = 0, {}
local function unindex(account, lock_key)
  unindexed[#unindexed + 1] = account
  unindexed[#unindexed + 1] = lock_key
end
for at = 1, (#KEYS - 3) / 2 do
  local lock, held = KEYS[2 * at + 2], KEYS[2 * at + 3]
  local lock_key, fence, seq, expires_ms, grant = unpack(ARGV, 5 * at - 3, 5 * at + 1)
  local ttl_ms = tonumber(expires_ms) - now_ms
  local stored, stored_seq, account = read_stored(lock)
  fence = tonumber(fence)
  last = math.max(last, fence)
  local is_over = grant == '' and stored == fence
  -- safeguard: OlderGrantRemoved
  -- The journal has a later grant: the stored one has ended, even if the later one has
  -- ended or expired, too.
  is_over = is_over or (account and stored < fence and (grant == '' or ttl_ms <= 0))
  -- safeguard end
  if is_over then
    redis.call('DEL', lock)
    unindex(account, lock_key)
  elseif grant ~= '' and ttl_ms > 0 and (fence > stored or (fence == stored and tonumber(seq) > stored_seq))
    and not redis.call('ZSCORE', KEYS[3],
      format_int(fence) .. ' ' .. string.match(grant, '^[^\n]*') .. ' ' .. lock_key) then
    redis.call('SET', lock, grant, 'PX', format_int(ttl_ms))
    restored = restored + 1
    if account then
      unindex(account, lock_key)
    end
    redis.call('ZADD', held, expires_ms, lock_key)
    if redis.call('PTTL', held) < ttl_ms then
      redis.call('PEXPIRE', held, format_int(ttl_ms))
    end
  end
end
redis.call('SET', KEYS[2], format_int(last) .. ' closed')
return {'restored', format_int(restored), unpack(unindexed)}
