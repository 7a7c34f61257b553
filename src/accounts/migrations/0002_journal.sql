-- What outlives the store: which process had the grants of a hash slot, and
-- the grants of long leases. Times are those of the store's clock.
CREATE TABLE stores (
    tag TEXT PRIMARY KEY,
    process TEXT NOT NULL,
    -- The name of the store that has them; '' for none.
    store TEXT NOT NULL DEFAULT '',
    -- Changes whenever a server says that it works with that store.
    beat BIGINT NOT NULL DEFAULT 0,
    -- When its epoch began, in microseconds: larger than that of any before.
    epoch BIGINT NOT NULL,
    -- The epoch of the first of all.
    founded BIGINT NOT NULL,
    -- The longest lease that any server has left unwritten, in ms.
    short_ms BIGINT NOT NULL,
    -- Whether all grants were written when the process ended.
    handed_over BIGINT NOT NULL DEFAULT 0,
    -- No fence above it is known to have been given. The last one, if they were.
    last_fence BIGINT NOT NULL DEFAULT 0,
    -- What that was when the epoch began.
    last_before BIGINT NOT NULL DEFAULT 0
);

-- A row for each grant. A row that has ended stays for a while, so that a statement
-- that arrives late does not bring the grant back.
CREATE TABLE journal (
    lock_key TEXT NOT NULL,
    fence BIGINT NOT NULL,
    tag TEXT NOT NULL,
    -- The number of the change that is recorded here: it rises with each.
    seq BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT,
    record TEXT NOT NULL,
    PRIMARY KEY (lock_key, fence)
);
CREATE INDEX journal_expires_at ON journal (expires_at);
CREATE INDEX journal_ended_at ON journal (ended_at);
