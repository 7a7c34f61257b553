use redis::{ErrorKind, RedisError, aio::MultiplexedConnection};

/// Why Redis cannot be used, as a message to the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no address of Redis is set; set LOCKABLE_REDIS_URL")]
    NoAddress,
    #[error(
        "the address of Redis begins with {0}://; use redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://"
    )]
    Scheme(String),
    #[error("invalid address of Redis {url}: {reason}")]
    Address { url: String, reason: String },
    #[error("Redis rejected the user or the password: {0}")]
    Authentication(String),
    #[error("Redis has version {0}; version 7.0 or newer is required")]
    Version(String),
    #[error(
        "Redis has maxmemory-policy {0}, by which it would evict locks that are held; \
         set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
    )]
    Eviction(String),
    /// A later attempt may succeed.
    #[error("Redis cannot be reached: {0}")]
    Unreachable(String),
    /// The replica may be promoted, or another server may take over the address.
    #[error("the server at this address is a replica, which cannot hold locks")]
    Replica,
    /// A fail-over promoted another server.
    #[error("the master is now {0}")]
    Moved(String),
}

impl StartError {
    /// Whether a retry may succeed without a change of settings.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Replica | Self::Moved(_))
    }

    /// Parses an error reply, which begins with a code.
    pub(super) fn from_reply(error: String) -> Self {
        let is_auth = error.split(' ').next().is_some_and(is_auth_error);
        if is_auth { Self::Authentication(error) } else { Self::Unreachable(error) }
    }
}

impl From<RedisError> for StartError {
    fn from(error: RedisError) -> Self {
        let is_auth = error.kind() == ErrorKind::AuthenticationFailed || error.code().is_some_and(is_auth_error);
        if is_auth { Self::Authentication(error.to_string()) } else { Self::Unreachable(error.to_string()) }
    }
}

fn is_auth_error(code: &str) -> bool {
    matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM")
}

/// The oldest supported major version.
const VERSION_MIN: u32 = 7;

/// The identity of a server, from its `INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerIdentity {
    /// Changes with each start of the server.
    pub(super) run_id: String,
    /// The replication id of the data. It changes when a replica is promoted, and when a master has
    /// had no replicas for an hour.
    pub(super) history: String,
    /// Whether the history continues another one, as after the promotion of a replica.
    continues_history: bool,
}

impl ServerIdentity {
    /// The identity that `lua/register_primary.lua` stores.
    pub(super) fn process(&self) -> String {
        format!("{} {}", self.run_id, self.history)
    }

    /// Whether this is the same server with a new replication id and without a loss of data, given
    /// its identity `before` at the previous check.
    pub(super) fn is_renamed(&self, before: &Self) -> bool {
        self.run_id == before.run_id && self.history != before.history && !self.continues_history
    }
}

/// The command that returns everything to check. `CONFIG` is often forbidden.
pub(super) const INFO_COMMAND: [&str; 4] = ["INFO", "server", "memory", "replication"];

/// Checks on this connection that the server can hold locks, and returns its identity.
pub(super) async fn check_server(connection: &mut MultiplexedConnection) -> Result<ServerIdentity, StartError> {
    let [name, sections @ ..] = INFO_COMMAND;
    let info: String = redis::cmd(name).arg(&sections).query_async(connection).await?;
    parse_info(&info)
}

/// Parses the reply of [`INFO_COMMAND`], and checks that the server can hold locks.
pub(super) fn parse_info(info: &str) -> Result<ServerIdentity, StartError> {
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).unwrap_or_default()
    };
    // Valkey reports the version of Redis that it is compatible with.
    let version = field("redis_version");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < VERSION_MIN) {
        return Err(StartError::Version(version.to_owned()));
    }
    match field("maxmemory_policy") {
        "noeviction" => {}
        policy => return Err(StartError::Eviction(policy.to_owned())),
    }
    if field("role") == "slave" {
        return Err(StartError::Replica);
    }
    Ok(ServerIdentity {
        run_id: field("run_id").to_owned(),
        history: field("master_replid").to_owned(),
        continues_history: field("master_replid2").bytes().any(|byte| byte != b'0'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_info_is_validated() {
        let info = |version, policy, role| {
            format!("# Server\r\nredis_version:{version}\r\nmaxmemory_policy:{policy}\r\nrole:{role}\r\n")
        };
        assert!(parse_info(&info("7.0.15", "noeviction", "master")).is_ok());
        assert!(parse_info(&info("10.1.0", "noeviction", "master")).is_ok());
        assert!(matches!(parse_info(&info("6.2.14", "noeviction", "master")), Err(StartError::Version(_))));
        assert!(matches!(parse_info(&info("7.0.15", "allkeys-lru", "master")), Err(StartError::Eviction(_))));
        assert!(matches!(parse_info(&info("7.0.15", "noeviction", "slave")), Err(StartError::Replica)));
        assert!(matches!(parse_info(""), Err(StartError::Version(_))));
    }
}
