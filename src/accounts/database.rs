use std::{sync::Once, time::Duration};

use sqlx::{
    AnyPool, Executor,
    any::{AnyPoolOptions, install_default_drivers},
    migrate::{Migrate, Migrator},
};
use tokio::time::sleep;

use super::AccountsError;
use crate::config::{DatabaseSettings, SecretUrl};

static MIGRATIONS: Migrator = sqlx::migrate!("src/accounts/migrations");

/// The account database: SQLite or PostgreSQL, by one set of queries.
#[derive(Clone)]
pub struct Database {
    pool: AnyPool,
    is_embedded: bool,
}

impl Database {
    /// How long to wait for a connection.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// How often to try to migrate while somebody else does.
    const MIGRATE_TRIES: u32 = 20;
    const MIGRATE_PAUSE: Duration = Duration::from_millis(250);

    /// Opens the database; SQLite's file is made where there is none.
    ///
    /// # Errors
    /// When the address is of another kind, or the database cannot be reached.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, AccountsError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(install_default_drivers);

        let is_embedded = Self::check_address(settings)?;
        let options = AnyPoolOptions::new()
            .max_connections(settings.connections)
            .acquire_timeout(Self::CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if is_embedded {
                        // Readers do not stop the writer, a writer waits for
                        // another, and references are held to.
                        let pragmas = "PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000; \
                                       PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON";
                        connection.execute(pragmas).await?;
                    }
                    Ok(())
                })
            });
        let pool = options.connect(&address(&settings.url, is_embedded)).await?;
        Ok(Self { pool, is_embedded })
    }

    /// Whether the address is that of an embedded database.
    ///
    /// # Errors
    /// When it is of a kind that is not known.
    pub fn check_address(settings: &DatabaseSettings) -> Result<bool, AccountsError> {
        match settings.url.scheme() {
            "sqlite" => Ok(true),
            "postgres" | "postgresql" => Ok(false),
            scheme => Err(AccountsError::Scheme(scheme.to_owned())),
        }
    }

    /// Whether the database is a file of this machine.
    pub fn is_embedded(&self) -> bool {
        self.is_embedded
    }

    /// Brings the database to this version. Several may do so at once:
    /// PostgreSQL lets them take turns, and with SQLite those who come second
    /// try again until there is nothing left to do.
    ///
    /// # Errors
    /// When a migration fails, or the database is of a newer version.
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

    /// Checks that the database is at this version, without changing it.
    ///
    /// # Errors
    /// [`AccountsError::NotMigrated`] when it is not.
    pub async fn check_version(&self) -> Result<(), AccountsError> {
        let mut connection = self.pool.acquire().await?;
        let applied = connection.list_applied_migrations(MIGRATIONS.table_name.as_ref()).await;
        let newest = MIGRATIONS.iter().map(|migration| migration.version).max();
        match applied {
            Ok(applied) if applied.iter().map(|migration| migration.version).max() >= newest => Ok(()),
            // Without any migration there is no table of them either.
            _ => Err(AccountsError::NotMigrated),
        }
    }

    pub(super) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Makes the audit log append-only. Each database has its own words for it.
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
        // One after another for all who migrate: the row of the counter is
        // theirs until they are done.
        let mut transaction = self.pool.begin().await?;
        transaction.execute("UPDATE revision SET seq = seq").await?;
        for statement in statements {
            transaction.execute(*statement).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// The address in the form that sqlx wants.
fn address(url: &SecretUrl, is_embedded: bool) -> String {
    let url = url.reveal();
    match is_embedded {
        true if url.contains("mode=") => url.to_owned(),
        true if url.contains('?') => format!("{url}&mode=rwc"),
        true => format!("{url}?mode=rwc"),
        false => url.to_owned(),
    }
}
