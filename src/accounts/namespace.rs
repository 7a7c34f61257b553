use serde::Serialize;
use sqlx::Row;
use uuid::Uuid;

use super::{
    AccountsError, Database,
    change::{Actor, now_ms},
};
use crate::lock::{NamespaceId, check_namespace_name};

/// A private namespace.
#[derive(Clone, Debug, Serialize)]
pub struct NamespaceInfo {
    pub id: String,
    pub name: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

impl Database {
    /// Maximum number of private namespaces per account.
    pub const NAMESPACES_MAX: u64 = 100;

    /// Creates a private namespace.
    ///
    /// # Errors
    /// If the account does not exist, its plan has no private namespaces, the limit is reached, or
    /// the name is invalid or in use.
    pub async fn create_namespace(&self, by: Actor, account: &str, name: &str) -> Result<NamespaceInfo, AccountsError> {
        check_namespace_name(name)?;
        let mut change = self.change(by).await?;
        let account = change.find_account(account).await?;
        if !change.find_plan(&account.plan).await?.private_namespaces {
            return Err(AccountsError::NoPrivateNamespaces(account.plan));
        }
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM namespaces WHERE account = $1")
            .bind(account.id.to_string())
            .fetch_all(change.connection())
            .await?;
        if names.iter().any(|other| other == name) {
            return Err(AccountsError::Exists { what: "a namespace", name: name.into() });
        }
        if names.len() as u64 >= Self::NAMESPACES_MAX {
            return Err(AccountsError::TooMany { what: "namespaces", max: Self::NAMESPACES_MAX });
        }
        let id = NamespaceId::Private(Uuid::now_v7()).to_string();
        let namespace = NamespaceInfo { id, name: name.into(), created_at: now_ms() };
        sqlx::query("INSERT INTO namespaces (id, account, name, created_at) VALUES ($1, $2, $3, $4)")
            .bind(&namespace.id)
            .bind(account.id.to_string())
            .bind(name)
            .bind(namespace.created_at)
            .execute(change.connection())
            .await?;
        change.finish(&account, "namespace.create", serde_json::json!({ "namespace": name })).await?;
        Ok(namespace)
    }

    /// Lists the private namespaces of an account, sorted by name.
    ///
    /// # Errors
    /// If the account does not exist.
    pub async fn list_namespaces(&self, account: &str) -> Result<Vec<NamespaceInfo>, AccountsError> {
        let account = self.show_account(account).await?;
        let rows = sqlx::query("SELECT id, name, created_at FROM namespaces WHERE account = $1 ORDER BY name")
            .bind(account.id.to_string())
            .fetch_all(self.pool())
            .await?;
        let namespace = |row: &sqlx::any::AnyRow| -> Result<_, sqlx::Error> {
            Ok(NamespaceInfo {
                id: row.try_get("id")?,
                name: row.try_get("name")?,
                created_at: row.try_get("created_at")?,
            })
        };
        Ok(rows.iter().map(namespace).collect::<Result<_, _>>()?)
    }
}
