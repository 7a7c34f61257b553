use clap::Subcommand;
use serde::Serialize;

use super::{CommonOptions, TableRow, output::time};
use crate::{
    accounts::{AccountsError, Database, HolderInfo, NamedLock, OperatorAnswer, OperatorRequest},
    lock::{LockName, Namespace, NamespaceId},
};

#[derive(Debug, Subcommand)]
pub enum LockCommand {
    /// Show the holder of a lock of any account; written to the audit log
    Show {
        #[command(flatten)]
        lock: LockOptions,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Break a lock of any account: end its grant; written to the audit log
    Break {
        #[command(flatten)]
        lock: LockOptions,
        /// Break only the grant with this fencing token
        #[arg(long, value_name = "N")]
        fencing_token: Option<u64>,
        #[command(flatten)]
        common: CommonOptions,
    },
}

/// Selects a lock.
#[derive(Debug, clap::Args)]
pub struct LockOptions {
    /// Name of the lock
    #[arg(value_parser = parse_name)]
    name: LockName,
    /// Private namespace of the account
    #[arg(long, requires = "account")]
    namespace: Option<String>,
    /// E-mail address or id of the account that owns the namespace
    #[arg(long, requires = "namespace")]
    account: Option<String>,
}

/// The state of a lock.
#[derive(Debug, Serialize)]
struct LockStatus {
    name: String,
    namespace: String,
    held: bool,
    /// E-mail address of the holder's account.
    email: Option<String>,
    #[serde(flatten)]
    holder: Option<HolderInfo>,
    waiting: u64,
}

impl LockCommand {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::Show { lock, common } => {
                let (database, printer) = common.open().await?;
                let lock = lock.find(&database).await?;
                printer.show(&show(&database, &lock).await?);
            }
            Self::Break { lock, fencing_token, common } => {
                let (database, printer) = common.open().await?;
                let lock = lock.find(&database).await?;
                let shown = show(&database, &lock).await?;
                let not_held = || AccountsError::NotFound { what: "such grant of", name: lock.name.clone() };
                let holder = shown.holder.ok_or_else(not_held)?;
                if fencing_token.is_some_and(|fence| fence != holder.fencing_token) {
                    return Err(not_held());
                }
                let request = OperatorRequest::Break { lock: lock.clone(), fencing_token: holder.fencing_token };
                match database.call_server(&request).await? {
                    OperatorAnswer::Broken { broken: true } => {
                        let of = shown.email.unwrap_or_else(|| holder.account.to_string());
                        printer.done(&format!("broke {}, which {of} held", lock.name));
                    }
                    OperatorAnswer::Broken { broken: false } => return Err(not_held()),
                    answer => return Err(unexpected(answer)),
                }
            }
        }
        Ok(())
    }
}

impl LockOptions {
    async fn find(&self, database: &Database) -> Result<NamedLock, AccountsError> {
        let (namespace_id, namespace) = match (&self.account, &self.namespace) {
            (Some(account), Some(namespace)) if namespace != Namespace::PUBLIC => {
                let namespaces = database.list_namespaces(account).await?;
                let found = namespaces.into_iter().find(|info| info.name == *namespace);
                let found =
                    found.ok_or_else(|| AccountsError::NotFound { what: "namespace", name: namespace.clone() })?;
                (found.id, found.name)
            }
            _ => (NamespaceId::Public.to_string(), Namespace::PUBLIC.to_owned()),
        };
        Ok(NamedLock { namespace_id, namespace, name: self.name.as_str().to_owned() })
    }
}

async fn show(database: &Database, lock: &NamedLock) -> Result<LockStatus, AccountsError> {
    match database.call_server(&OperatorRequest::Show { lock: lock.clone() }).await? {
        OperatorAnswer::Shown { holder, waiting } => {
            // An account that was deleted meanwhile has no e-mail address; the id is shown instead.
            let email = match &holder {
                Some(holder) => database.show_account(&holder.account.to_string()).await.ok(),
                None => None,
            };
            Ok(LockStatus {
                name: lock.name.clone(),
                namespace: lock.namespace.clone(),
                held: holder.is_some(),
                email: email.map(|account| account.email),
                holder,
                waiting,
            })
        }
        answer => Err(unexpected(answer)),
    }
}

fn unexpected(answer: OperatorAnswer) -> AccountsError {
    match answer {
        OperatorAnswer::Failed { reason } => AccountsError::Server(reason),
        _ => AccountsError::Corrupt("a server's answer"),
    }
}

impl TableRow for LockStatus {
    const HEADINGS: &'static [&'static str] =
        &["lock", "namespace", "account", "owner", "note", "token", "fencing token", "acquired", "expires", "waiting"];

    fn row(&self) -> Vec<String> {
        let holder = self.holder.as_ref();
        let text = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
        vec![
            self.name.clone(),
            self.namespace.clone(),
            text(self.email.clone().or_else(|| holder.map(|holder| holder.account.to_string()))),
            text(holder.and_then(|holder| holder.owner.clone())),
            text(holder.map(|holder| holder.note.clone())),
            text(holder.map(|holder| holder.token_label.clone())),
            text(holder.map(|holder| holder.fencing_token.to_string())),
            time(holder.map(|holder| holder.acquired_at)),
            time(holder.map(|holder| holder.expires_at)),
            self.waiting.to_string(),
        ]
    }
}

fn parse_name(text: &str) -> Result<LockName, String> {
    LockName::parse(text).map_err(|error| error.to_string())
}
