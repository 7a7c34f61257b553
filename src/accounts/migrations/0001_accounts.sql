-- One schema for SQLite and PostgreSQL: text and 64-bit integers only. Times are milliseconds since
-- 1970, booleans 0 or 1.

-- Numbers the changes. Each change increments the counter and locks the row until its commit, so a
-- reader of number N has seen all earlier changes.
CREATE TABLE revision (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    seq BIGINT NOT NULL
);
INSERT INTO revision (one, seq) VALUES (1, 0);

-- Signs the token cache in Redis, so that write access to Redis does not suffice to forge a token.
-- The first server creates the key.
CREATE TABLE cache_key (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    key TEXT NOT NULL
);

-- Requests of operators to servers about locks, which are not in the database. One server claims
-- each request and writes the answer here.
CREATE TABLE operator_requests (
    id TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    -- JSON, like the answer.
    request TEXT NOT NULL,
    claimed_at BIGINT,
    answer TEXT
);

CREATE TABLE plans (
    name TEXT PRIMARY KEY,
    rate_per_second BIGINT NOT NULL,
    burst BIGINT NOT NULL,
    lease_default_ms BIGINT NOT NULL,
    lease_min_ms BIGINT NOT NULL,
    lease_max_ms BIGINT NOT NULL,
    locks_max BIGINT NOT NULL,
    waiters_max BIGINT NOT NULL,
    tokens_max BIGINT NOT NULL,
    private_namespaces BIGINT NOT NULL,
    revision BIGINT NOT NULL
);
INSERT INTO plans VALUES ('hobbyist', 10, 50, 60000, 60000, 60000, 100, 10, 10, 0, 0);
INSERT INTO plans VALUES ('business', 1000, 2000, 60000, 1000, 86400000, 100000, 10000, 1000, 1, 0);

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL,
    email_lower TEXT NOT NULL UNIQUE,
    plan TEXT NOT NULL REFERENCES plans (name),
    lease_ms BIGINT,
    suspended_at BIGINT,
    created_at BIGINT NOT NULL,
    revision BIGINT NOT NULL
);

CREATE TABLE namespaces (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (account, name)
);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (id),
    hash TEXT NOT NULL UNIQUE,
    label TEXT NOT NULL,
    may_lock BIGINT NOT NULL,
    may_manage BIGINT NOT NULL,
    default_namespace TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_hour BIGINT,
    revoked_at BIGINT
);
CREATE INDEX tokens_account ON tokens (account, id);

-- Append-only.
CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    account TEXT,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_account ON audit (account, at, id);
