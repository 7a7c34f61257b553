-- The account page: who may sign in, sessions, links that work once, and tokens
-- that end by themselves.

-- Argon2id as a PHC string; none for an account that nobody signs in to.
ALTER TABLE accounts ADD COLUMN password TEXT;
-- What is left of a deleted account is its id, by which the audit log calls it.
ALTER TABLE accounts ADD COLUMN deleted_at BIGINT;
ALTER TABLE tokens ADD COLUMN expires_at BIGINT;
CREATE INDEX tokens_expires_at ON tokens (expires_at);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL REFERENCES accounts (id),
    created_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL
);
CREATE INDEX sessions_account ON sessions (account);

-- With an account: to give it another password. Without: to make one, on that
-- plan, for that address or any.
CREATE TABLE links (
    hash TEXT PRIMARY KEY,
    account TEXT REFERENCES accounts (id),
    email TEXT,
    plan TEXT NOT NULL REFERENCES plans (name),
    expires_at BIGINT NOT NULL
);
