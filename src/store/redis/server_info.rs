use redis::{ErrorKind, RedisError, aio::MultiplexedConnection};

/// Why Redis cannot be used. Its message is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no address of Redis is set")]
    NoAddress,
    #[error(
        "the address of Redis begins with {0}://, where redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster:// is expected"
    )]
    Scheme(String),
    #[error("the address of Redis, {url}, cannot be used: {reason}")]
    Address { url: String, reason: String },
    #[error("Redis refuses the user or the password: {0}")]
    Password(String),
    #[error("Redis is version {0}; 7.0 or newer is needed")]
    Version(String),
    #[error(
        "Redis has maxmemory-policy {0}, by which it would evict locks that are held; \
         set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
    )]
    Eviction(String),
    /// It may be usable later.
    #[error("Redis cannot be reached: {0}")]
    Away(String),
    /// It may be promoted, or another server found at the address.
    #[error("the server at this address is a replica, which takes no locks")]
    Replica,
    /// Another server has taken its place.
    #[error("the master is {0} now")]
    Moved(String),
}

impl StartError {
    /// Whether waiting may help, without anybody changing a setting.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Replica | Self::Moved(_))
    }

    /// What the server has answered, beginning with the error's code.
    pub(super) fn refusal(error: String) -> Self {
        let is_password = error.split(' ').next().is_some_and(is_about_password);
        if is_password { Self::Password(error) } else { Self::Away(error) }
    }
}

impl From<RedisError> for StartError {
    fn from(error: RedisError) -> Self {
        let is_password =
            error.kind() == ErrorKind::AuthenticationFailed || error.code().is_some_and(is_about_password);
        if is_password { Self::Password(error.to_string()) } else { Self::Away(error.to_string()) }
    }
}

fn is_about_password(code: &str) -> bool {
    matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM")
}

/// The oldest version that is supported.
const VERSION_MIN: u32 = 7;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Another one with each start of a server.
    pub(super) run_id: String,
    /// Which history of changes its data is of: another one when a replica is
    /// promoted, and also when a master has been without replicas for an hour.
    pub(super) history: String,
    /// Whether that history goes on from another, as a promoted replica's does.
    goes_on: bool,
}

impl Identity {
    /// What `lua/register_primary.lua` knows it by.
    pub(super) fn process(&self) -> String {
        format!("{} {}", self.run_id, self.history)
    }

    /// Whether this is the same server, which has renamed its history and lost
    /// nothing, given that it was `before` a moment ago.
    pub(super) fn is_renamed(&self, before: &Self) -> bool {
        self.run_id == before.run_id && self.history != before.history && !self.goes_on
    }
}

/// Asks a server all that is to be known of it. `CONFIG` is often forbidden.
pub(super) const INFO: [&str; 4] = ["INFO", "server", "memory", "replication"];

/// Checks, on the connection that is to be used, that the server can keep its
/// word, and asks who it is.
pub(super) async fn check(connection: &mut MultiplexedConnection) -> Result<Identity, StartError> {
    let [name, sections @ ..] = INFO;
    let info: String = redis::cmd(name).arg(&sections).query_async(connection).await?;
    judge(&info)
}

/// Reads what a server said of itself, and whether it can be used.
pub(super) fn judge(info: &str) -> Result<Identity, StartError> {
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).unwrap_or_default()
    };
    // Valkey tells the version of Redis that it is compatible with.
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
    Ok(Identity {
        run_id: field("run_id").to_owned(),
        history: field("master_replid").to_owned(),
        goes_on: field("master_replid2").bytes().any(|byte| byte != b'0'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_judged_by_what_it_says() {
        let info = |version, policy, role| {
            format!("# Server\r\nredis_version:{version}\r\nmaxmemory_policy:{policy}\r\nrole:{role}\r\n")
        };
        assert!(judge(&info("7.0.15", "noeviction", "master")).is_ok());
        assert!(judge(&info("10.1.0", "noeviction", "master")).is_ok());
        assert!(matches!(judge(&info("6.2.14", "noeviction", "master")), Err(StartError::Version(_))));
        assert!(matches!(judge(&info("7.0.15", "allkeys-lru", "master")), Err(StartError::Eviction(_))));
        assert!(matches!(judge(&info("7.0.15", "noeviction", "slave")), Err(StartError::Replica)));
        assert!(matches!(judge(""), Err(StartError::Version(_))));
    }
}
