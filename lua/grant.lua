-- Grants as they are stored: the one place that takes one apart. It stands behind
-- prelude.lua; keys.lua describes the fields.

-- The fields of a grant from its fence on, which begins at `from`: fence, seq and
-- until_ms of its journal row ('' without one), mark, attempt, and the rest.
local function read_grant(grant, from)
  return string.match(grant, '^(%d+) ?(%d*) ?(%d*)\n([?#]?)([^\n]*)\n(.*)$', from)
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
