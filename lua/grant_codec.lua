-- Decodes and changes stored grants; no other file parses one past its holder. Included
-- after prelude.lua. keys.lua describes the fields.

-- The fields of a grant from its fence on, which begins at byte `from`: the fence, seq
-- and until_ms of its journal row ('' without one), the mark, the attempt, and the tail:
-- the time with the requested lease, token, note and info.
local function read_grant(grant, from)
  return string.match(grant, '^(%d+) ?(%d*) ?(%d*)\n([?#]?)([^\n]*)\n(.*)$', from)
end

-- The last lease in ms that the holder requested, '' for none. In `tail`, it follows
-- the time of the grant.
local function requested_lease(tail)
  return string.match(tail, '^%d*@?(%d*)')
end

-- The tail with another requested lease.
local function with_lease(tail, lease_ms)
  if requested_lease(tail) == lease_ms then
    return tail
  end
  return (string.gsub(tail, '^(%d*)@?%d*', '%1@' .. lease_ms, 1))
end

-- The fence line of a grant with a journal row, after one more change. The sequence
-- number orders the changes of one grant in every place that stores them, and until_ms
-- is the latest expiry of all changes.
local function journal_line(fence, seq, until_ms, expires_ms)
  local last_ms = math.max(tonumber(until_ms) or 0, tonumber(expires_ms))
  return fence .. ' ' .. format_int((tonumber(seq) or 0) + 1) .. ' ' .. format_int(last_ms)
end

-- Whether a recovery is in its closed phase, before the grants are compared with the
-- journal. No grant is confirmed in it: the journal may have a newer one.
local function is_closed(clock)
  return string.find(clock or 'closed', 'closed', 1, true)
end
