use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, RedisResult,
    aio::{MultiplexedConnection, PubSub},
    io::tcp::TcpSettings,
};
use socket2::TcpKeepalive;

use super::check::StartError;
use crate::config::SecretUrl;

/// Where Redis is, and how to connect to it.
#[derive(Clone)]
pub(super) struct Address {
    client: Client,
    info: ConnectionInfo,
    config: AsyncConnectionConfig,
    timeout: Duration,
    pub(super) shown: String,
}

impl Address {
    const LEAP_MAX: Duration = Duration::from_secs(1);
    /// How long to try to connect once.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
    /// After how long without traffic, and then how often, the system asks
    /// whether the other side is still there.
    const KEEPALIVE: Duration = Duration::from_secs(5);
    /// After how long without an acknowledgement the system gives up on what
    /// was sent.
    const SENT_TIMEOUT: Duration = Duration::from_secs(5);

    /// # Errors
    /// When the address is not one of the forms that are known.
    pub(super) fn parse(url: &SecretUrl, timeout: Duration) -> Result<Self, StartError> {
        if !matches!(url.scheme(), "redis" | "rediss" | "redis+unix") {
            return Err(StartError::Scheme(url.scheme().to_owned()));
        }
        let keepalive = TcpKeepalive::new().with_time(Self::KEEPALIVE).with_interval(Self::KEEPALIVE);
        let tcp =
            TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Self::SENT_TIMEOUT);
        let shown = url.to_string();
        let unreadable =
            |error: redis::RedisError| StartError::Address { url: shown.clone(), reason: error.to_string() };
        let info = url.reveal().into_connection_info().map_err(unreadable)?.set_tcp_settings(tcp);
        if url.scheme() == "rediss" {
            // The first of its kind stays; only one can be the process's own.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::open(info.clone()).map_err(unreadable)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Self::CONNECT_TIMEOUT))
            .set_response_timeout(Some(timeout));
        Ok(Self { client, info, config, timeout, shown })
    }

    /// By how many microseconds the server's clock may leap: as much as a slow
    /// answer is allowed to take, and a leap second.
    pub(super) fn leap_max(&self) -> u64 {
        self.timeout.max(Self::LEAP_MAX).as_micros() as u64
    }

    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        self.client.get_multiplexed_async_connection_with_config(&self.config).await
    }

    pub(super) async fn connect_for_messages(&self) -> RedisResult<PubSub> {
        self.client.get_async_pubsub().await
    }

    /// Connections for one user at a time, `size` of them at most.
    pub(super) fn pool(&self, size: u32, timeout: Duration) -> Result<Pool, StartError> {
        let unusable = |reason: String| StartError::Address { url: self.shown.clone(), reason };
        let manager = Manager::new_with_config(self.info.clone(), self.config.clone())
            .map_err(|error| unusable(error.to_string()))?;
        Pool::builder(manager)
            .max_size(size as usize)
            .wait_timeout(Some(timeout))
            .create_timeout(Some(Self::CONNECT_TIMEOUT))
            .recycle_timeout(Some(timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| unusable(error.to_string()))
    }
}
