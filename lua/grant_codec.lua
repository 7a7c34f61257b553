-- Grants as they are stored: the one place that takes one apart. It stands behind
-- prelude.lua; keys.lua describes the fields.

-- The fields of a grant from its fence on, which begins at `from`: fence, seq and
-- until_ms of its journal row ('' without one), mark, attempt, and the rest.
local function read_grant(grant, from)
  return string.match(grant, '^(%d+) ?(%d*) ?(%d*)\n([?#]?)([^\n]*)\n(.*)$', from)
end

-- The lease in ms that a grant's holder asked for last, '' for none: it stands behind the
-- time of the grant, with which `rest` begins.
local function asked_lease(rest)
  return string.match(rest, '^%d*@?(%d*)')
end

-- The same grant, for another lease; `rest` stays as it is when that is no other.
local function with_lease(rest, lease_ms)
  if asked_lease(rest) == lease_ms then
    return rest
  end
  return (string.gsub(rest, '^(%d*)@?%d*', '%1@' .. lease_ms, 1))
end

-- The line with the fence of a grant whose change the journal is to record. The
-- sequence number orders the changes of one grant wherever they are written, and
-- until_ms is the latest expiry that any of them has named.
local function journal_line(fence, seq, until_ms, expires_ms)
  local last_ms = math.max(tonumber(until_ms) or 0, tonumber(expires_ms))
  return fence .. ' ' .. word((tonumber(seq) or 0) + 1) .. ' ' .. word(last_ms)
end

-- Whether a recovery has yet to compare the grants with the journal. Until then no
-- grant is confirmed: the journal may know a newer one.
local function is_closed(clock)
  return string.find(clock or 'closed', 'closed', 1, true)
end
