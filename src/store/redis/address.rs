use std::time::Duration;

use deadpool_redis::{Hook, HookError, Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    RedisResult,
    aio::{MultiplexedConnection, PubSub},
    io::tcp::TcpSettings,
};
use socket2::TcpKeepalive;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    command_error::Fault,
    connect::dial,
    pipeline::{Answer, Pipeline},
    server_info::{StartError, check},
};
use crate::store::clock_sample::Reading;

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
    /// How long to try to connect once.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
    /// After how long without traffic, and then how often, the system asks
    /// whether the other side is still there.
    const KEEPALIVE: Duration = Duration::from_secs(5);
    /// After how long without an acknowledgement the system gives up on what
    /// was sent.
    const SENT_TIMEOUT: Duration = Duration::from_secs(5);

    /// `url` with its password, and as it is `shown`.
    ///
    /// # Errors
    /// When the address is not one of the forms that are known.
    pub(super) fn parse(url: &str, shown: &str, timeout: Duration) -> Result<Self, StartError> {
        let keepalive = TcpKeepalive::new().with_time(Self::KEEPALIVE).with_interval(Self::KEEPALIVE);
        let tcp =
            TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Self::SENT_TIMEOUT);
        let unreadable = |error: RedisError| StartError::Address { url: shown.to_owned(), reason: error.to_string() };
        let info = url.into_connection_info().map_err(unreadable)?.set_tcp_settings(tcp);
        if url.starts_with("rediss:") {
            // The first of its kind stays; only one can be the process's own.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::open(info.clone()).map_err(unreadable)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Self::CONNECT_TIMEOUT))
            .set_response_timeout(Some(timeout));
        Ok(Self { client, info, config, timeout, shown: shown.to_owned() })
    }

    /// The host; nothing for a socket.
    pub(super) fn host(&self) -> &str {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    /// By how much the server's clock may leap: commands are late only after a leap
    /// that is longer than the time that they have.
    pub(super) fn leap_max(&self) -> Duration {
        self.timeout.max(Reading::LEAP_MAX)
    }

    /// How long an answer may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        self.client.get_multiplexed_async_connection_with_config(&self.config).await
    }

    pub(super) async fn connect_for_messages(&self) -> RedisResult<PubSub> {
        let connected = timeout(Self::CONNECT_TIMEOUT, self.client.get_async_pubsub()).await;
        connected.unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "no connection in time"))))
    }

    /// A connection for scripts, on the runtime that polls this, to whatever server
    /// is there now. `gone` is told when it ends.
    pub(super) async fn open_pipeline(&self, gone: CancellationToken) -> Result<Pipeline, StartError> {
        let deadline = Instant::now() + Self::CONNECT_TIMEOUT;
        let dialled = timeout_at(deadline, dial(&self.info)).await;
        let late = || StartError::Away("no connection in time".into());
        let stream = dialled.map_err(|_| late())?.map_err(|error| StartError::Away(error.to_string()))?;
        let pipeline = Pipeline::start(stream, gone);
        let (settings, database) = (self.info.redis_settings(), self.info.redis_settings().db().to_string());
        let sign_in = settings.password().map(|password| ["AUTH", settings.username().unwrap_or("default"), password]);
        let select = (settings.db() != 0).then_some(["SELECT", &database]);
        let greetings = [sign_in.as_ref().map(|words| &words[..]), select.as_ref().map(|words| &words[..])];
        for words in greetings.into_iter().flatten() {
            match pipeline.ask(words.iter().copied(), deadline).await {
                Ok(Answer::Refusal(error)) => return Err(StartError::refusal(error)),
                Ok(_) => {}
                Err(Fault::Gone(reason)) => return Err(StartError::Away(reason)),
                Err(_) => return Err(late()),
            }
        }
        Ok(pipeline)
    }

    /// Connections for one user at a time, `size` of them at most, to the server
    /// with this `run_id` and no other: what is found at the address later may
    /// not have been checked.
    pub(super) fn pool(&self, size: u32, run_id: String) -> Result<Pool, StartError> {
        let unusable = |reason: String| StartError::Address { url: self.shown.clone(), reason };
        let manager = Manager::new_with_config(self.info.clone(), self.config.clone())
            .map_err(|error| unusable(error.to_string()))?;
        let is_the_same = Hook::async_fn(move |connection: &mut MultiplexedConnection, _| {
            let run_id = run_id.clone();
            Box::pin(async move {
                match check(connection).await {
                    Ok(identity) if identity.run_id == run_id => Ok(()),
                    Ok(_) => Err(HookError::message("another server is at this address")),
                    Err(error) => Err(HookError::message(error.to_string())),
                }
            })
        });
        Pool::builder(manager)
            .max_size(size as usize)
            .wait_timeout(Some(self.timeout))
            .create_timeout(Some(Self::CONNECT_TIMEOUT))
            .recycle_timeout(Some(self.timeout))
            .runtime(Runtime::Tokio1)
            .post_create(is_the_same)
            .build()
            .map_err(|error| unusable(error.to_string()))
    }
}
