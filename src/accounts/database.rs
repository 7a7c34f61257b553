use std::{
    sync::{LazyLock, Once},
    time::Duration,
};

use sqlx::{
    AnyPool, Executor,
    any::{AnyPoolOptions, install_default_drivers},
    error::DatabaseError,
    migrate::{Migrate, MigrateError, Migrator},
};
use tokio::time::sleep;

use super::{AccountsError, private_file};
use crate::config::{DatabaseSettings, SecretUrl};

/// The database may be newer than the program: during a rolling update, servers of the previous
/// version must still start.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("src/accounts/migrations");
    migrations.set_ignore_missing(true);
    migrations
});

/// The account database: SQLite or PostgreSQL, with the same queries.
#[derive(Clone)]
pub struct Database {
    pool: AnyPool,
    is_embedded: bool,
}

impl Database {
    /// Time limit for getting a connection.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// Attempts to migrate while another process migrates.
    const MIGRATE_TRIES: u32 = 20;
    const MIGRATE_PAUSE: Duration = Duration::from_millis(250);

    /// Opens the database. A missing SQLite file is created, readable for this user only.
    ///
    /// # Errors
    /// If the URL's scheme is unsupported, or the database is unreachable.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, AccountsError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(install_default_drivers);

        let is_embedded = Self::check_address(settings)?;
        if let Some(path) = settings.file() {
            private_file::create(&path);
        }
        let options = AnyPoolOptions::new()
            .max_connections(settings.connections)
            .acquire_timeout(Self::CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if is_embedded {
                        // Writers wait for each other, readers do not block writers, a revoked
                        // token stays revoked after a power loss, and foreign keys are enforced.
                        let pragmas = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                                       PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";
                        connection.execute(pragmas).await?;
                    }
                    Ok(())
                })
            });
        match options.connect(&address(&settings.url, is_embedded)).await {
            Ok(pool) => Ok(Self { pool, is_embedded }),
            // The pool has retried until then, since the database may be starting.
            Err(sqlx::Error::PoolTimedOut) => Err(AccountsError::Unreachable(settings.url.to_string())),
            Err(error) => Err(AccountsError::NotOpened(settings.url.to_string(), error)),
        }
    }

    /// Whether the URL is that of an embedded database.
    ///
    /// # Errors
    /// If the scheme is unknown, or the database is in memory, where each connection would have a
    /// database of its own.
    pub fn check_address(settings: &DatabaseSettings) -> Result<bool, AccountsError> {
        match settings.url.scheme() {
            "sqlite" if is_in_memory(&settings.url) => Err(AccountsError::InMemory),
            "sqlite" => Ok(true),
            "postgres" | "postgresql" => check_parameters(&settings.url).map(|()| false),
            scheme => Err(AccountsError::Scheme(scheme.to_owned())),
        }
    }

    /// Logs the files of an embedded database that other users of this machine can open.
    pub fn warn_if_shared(settings: &DatabaseSettings) {
        if let Some(path) = settings.file() {
            private_file::warn_if_shared(&path);
        }
    }

    /// Whether the database is a SQLite file of this machine.
    pub fn is_embedded(&self) -> bool {
        self.is_embedded
    }

    /// Migrates the database to this version. Several processes may do so at once: PostgreSQL
    /// serializes them; with SQLite the later ones retry until nothing is left to do.
    ///
    /// # Errors
    /// If a migration fails.
    pub async fn migrate(&self) -> Result<(), AccountsError> {
        let mut tries = 0;
        while let Err(error) = MIGRATIONS.run(&self.pool).await {
            tries += 1;
            if !self.is_embedded || tries >= Self::MIGRATE_TRIES {
                return Err(error.into());
            }
            sleep(Self::MIGRATE_PAUSE).await;
        }
        self.protect_audit().await
    }

    /// Checks that the database is at this version or a later one, without changes.
    ///
    /// # Errors
    /// [`AccountsError::NotMigrated`] when it is not.
    pub async fn check_version(&self) -> Result<(), AccountsError> {
        let mut connection = self.pool.acquire().await?;
        let applied = match connection.list_applied_migrations(&MIGRATIONS.table_name).await {
            Ok(applied) => applied.into_iter().map(|migration| migration.version).max(),
            // Before the first migration the table of migrations does not exist.
            Err(MigrateError::Execute(sqlx::Error::Database(error))) if is_no_such_table(&*error) => None,
            Err(error) => return Err(error.into()),
        };
        let needed = MIGRATIONS.iter().map(|migration| migration.version).max();
        if applied < needed {
            return Err(AccountsError::NotMigrated { is: applied.unwrap_or(0), needed: needed.unwrap_or(0) });
        }
        Ok(())
    }

    /// Closes all connections; SQLite then merges its files into one.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Makes the audit log append-only, with statements that differ between the databases.
    async fn protect_audit(&self) -> Result<(), AccountsError> {
        let statements: &[&'static str] = if self.is_embedded {
            &[
                "CREATE TRIGGER IF NOT EXISTS audit_kept BEFORE DELETE ON audit \
                 BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
                "CREATE TRIGGER IF NOT EXISTS audit_unchanged BEFORE UPDATE ON audit \
                 BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
            ]
        } else {
            &[
                "CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
                "CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit \
                 FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
            ]
        };
        // The locked counter row serializes concurrent migrations.
        let mut transaction = self.pool.begin().await?;
        transaction.execute("UPDATE revision SET seq = seq").await?;
        for statement in statements {
            transaction.execute(*statement).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// Rejects unknown URL parameters: the driver would log and ignore them, and they may be the rest
/// of a password.
fn check_parameters(url: &SecretUrl) -> Result<(), AccountsError> {
    const KNOWN: [&str; 18] = [
        "application_name",
        "dbname",
        "host",
        "hostaddr",
        "options",
        "password",
        "port",
        "ssl-ca",
        "ssl-cert",
        "ssl-key",
        "ssl-mode",
        "ssl-root-cert",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "statement-cache-capacity",
        "user",
    ];
    let is_known = |name: &str| KNOWN.contains(&name) || (name.starts_with("options[") && name.ends_with(']'));
    match url.parts().query_pairs().all(|(name, _)| is_known(&name)) {
        true => Ok(()),
        false => Err(AccountsError::Parameter(KNOWN.join(", "))),
    }
}

fn is_in_memory(url: &SecretUrl) -> bool {
    url.reveal().contains(":memory:") || url.reveal().contains("mode=memory")
}

fn is_no_such_table(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code == "42P01") || error.message().starts_with("no such table")
}

/// Returns the URL as sqlx expects it.
fn address(url: &SecretUrl, is_embedded: bool) -> String {
    let url = url.reveal();
    match is_embedded {
        true if url.contains("mode=") => url.to_owned(),
        true if url.contains('?') => format!("{url}&mode=rwc"),
        true => format!("{url}?mode=rwc"),
        false => url.to_owned(),
    }
}
