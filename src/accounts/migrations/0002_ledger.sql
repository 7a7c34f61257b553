-- What outlives the keyspace: which process had the grants of a hash slot, and
-- the grants of long leases. Times are those of the keyspace's clock.
CREATE TABLE keyspaces (
    tag TEXT PRIMARY KEY,
    process TEXT NOT NULL,
    -- When its era began, in microseconds: larger than that of any before.
    epoch BIGINT NOT NULL,
    -- The epoch of the first of all.
    founded BIGINT NOT NULL,
    -- The longest lease that any server has left unwritten, in ms.
    short_ms BIGINT NOT NULL,
    -- Whether all grants were written when the process ended.
    handed_over BIGINT NOT NULL DEFAULT 0,
    -- The last fence, if they were.
    last_fence BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE journal (
    place TEXT PRIMARY KEY,
    tag TEXT NOT NULL,
    fence BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX journal_expires_at ON journal (expires_at);
