-- The account page: passwords, sessions, single-use links, and tokens that expire.

-- Argon2id hash as a PHC string; NULL for an account without a password.
ALTER TABLE accounts ADD COLUMN password TEXT;
-- A deleted account keeps its id only, which the audit log refers to.
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

-- With an account: the link sets its password. Without: the link creates an account with that plan,
-- for that e-mail address or any.
CREATE TABLE links (
    hash TEXT PRIMARY KEY,
    account TEXT REFERENCES accounts (id),
    email TEXT,
    plan TEXT NOT NULL REFERENCES plans (name),
    expires_at BIGINT NOT NULL
);
