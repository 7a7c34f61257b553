-- The data that must survive a loss of the store: the process with the grants of each hash slot,
-- and the grants of long leases. Times are those of the store's clock.
CREATE TABLE stores (
    tag TEXT PRIMARY KEY,
    process TEXT NOT NULL,
    -- Name of the store with the slot's grants; '' for none.
    store TEXT NOT NULL DEFAULT '',
    -- Incremented by the servers that work with that store.
    heartbeats BIGINT NOT NULL DEFAULT 0,
    -- Begin of its epoch in microseconds; larger than every earlier epoch.
    epoch BIGINT NOT NULL,
    -- The store's first epoch.
    founded BIGINT NOT NULL,
    -- Longest lease that a server may not have written to the journal, in ms.
    short_ms BIGINT NOT NULL,
    -- Whether the process has written all grants before it ended.
    handed_over BIGINT NOT NULL DEFAULT 0,
    -- The largest fencing token known to be issued; after a hand-over, the last one.
    last_fence BIGINT NOT NULL DEFAULT 0,
    -- last_fence when the epoch began.
    last_before BIGINT NOT NULL DEFAULT 0
);

-- One row per grant. The row of an ended grant stays for a while, so that a late statement does not
-- restore the grant.
CREATE TABLE journal (
    lock_key TEXT NOT NULL,
    fence BIGINT NOT NULL,
    tag TEXT NOT NULL,
    -- Number of the recorded change of the grant; rises with each change.
    seq BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT,
    record TEXT NOT NULL,
    PRIMARY KEY (lock_key, fence)
);
CREATE INDEX journal_expires_at ON journal (expires_at);
CREATE INDEX journal_ended_at ON journal (ended_at);
