use std::time::Duration;

use deadpool_redis::{Hook, HookError, Manager, Pool, Runtime};
use lockable_resp::{Error, Pipeline, Value};
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
    connect::open_stream,
    server_info::{StartError, check_server},
};
use crate::store::clock_sample::ClockSample;

/// The address of one Redis server, with its connection settings.
#[derive(Clone)]
pub(super) struct Address {
    client: Client,
    info: ConnectionInfo,
    config: AsyncConnectionConfig,
    timeout: Duration,
    pub(super) shown: String,
}

impl Address {
    /// The time-out of one connection attempt.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
    /// The idle time before the first TCP keepalive probe, and the interval between probes.
    const KEEPALIVE: Duration = Duration::from_secs(5);
    /// The time without an acknowledgment after which TCP ends the connection.
    const SENT_TIMEOUT: Duration = Duration::from_secs(5);

    /// Parses `url`, which may have a password; `shown` is the same address without secrets.
    ///
    /// # Errors
    /// When the address has an unknown form.
    pub(super) fn parse(url: &str, shown: &str, timeout: Duration) -> Result<Self, StartError> {
        let keepalive = TcpKeepalive::new().with_time(Self::KEEPALIVE).with_interval(Self::KEEPALIVE);
        let tcp =
            TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Self::SENT_TIMEOUT);
        let unreadable = |error: RedisError| StartError::Address { url: shown.to_owned(), reason: error.to_string() };
        let info = url.into_connection_info().map_err(unreadable)?.set_tcp_settings(tcp);
        if url.starts_with("rediss:") {
            // Only the first provider of a process takes effect.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::open(info.clone()).map_err(unreadable)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Self::CONNECT_TIMEOUT))
            .set_response_timeout(Some(timeout));
        Ok(Self { client, info, config, timeout, shown: shown.to_owned() })
    }

    /// The host; empty for a Unix socket.
    pub(super) fn host(&self) -> &str {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    /// The largest jump of the server's clock that is ignored: commands miss their deadline only
    /// after a jump that exceeds their time-out.
    pub(super) fn jump_max(&self) -> Duration {
        self.timeout.max(ClockSample::JUMP_MAX)
    }

    /// The time-out of one command.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        self.client.get_multiplexed_async_connection_with_config(&self.config).await
    }

    pub(super) async fn connect_pubsub(&self) -> RedisResult<PubSub> {
        let connected = timeout(Self::CONNECT_TIMEOUT, self.client.get_async_pubsub()).await;
        connected.unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "no connection in time"))))
    }

    /// Opens a connection for scripts on the current runtime. It cancels `closed` when the
    /// connection ends. The caller checks which server answers.
    pub(super) async fn open_pipeline(&self, closed: CancellationToken) -> Result<Pipeline, StartError> {
        let deadline = Instant::now() + Self::CONNECT_TIMEOUT;
        let opened = timeout_at(deadline, open_stream(&self.info)).await;
        let late = || StartError::Unreachable("no connection in time".into());
        let stream = opened.map_err(|_| late())?.map_err(|error| StartError::Unreachable(error.to_string()))?;
        let pipeline = Pipeline::start(stream, closed);
        let (settings, database) = (self.info.redis_settings(), self.info.redis_settings().db().to_string());
        let auth = settings.password().map(|password| ["AUTH", settings.username().unwrap_or("default"), password]);
        let select = (settings.db() != 0).then_some(["SELECT", &database]);
        let commands = [auth.as_ref().map(|words| &words[..]), select.as_ref().map(|words| &words[..])];
        for words in commands.into_iter().flatten() {
            match pipeline.send(words.iter().copied(), deadline).await {
                Ok(Value::Error(error)) => return Err(StartError::from_reply(error)),
                Ok(_) => {}
                Err(Error::ConnectionLost(reason)) => return Err(StartError::Unreachable(reason)),
                Err(_) => return Err(late()),
            }
        }
        Ok(pipeline)
    }

    /// A pool of at most `size` connections to the server with this `run_id`. The pool rejects
    /// another server at the same address, since that server is unchecked.
    pub(super) fn pool(&self, size: u32, run_id: String) -> Result<Pool, StartError> {
        let unusable = |reason: String| StartError::Address { url: self.shown.clone(), reason };
        let manager = Manager::new_with_config(self.info.clone(), self.config.clone())
            .map_err(|error| unusable(error.to_string()))?;
        let is_the_same = Hook::async_fn(move |connection: &mut MultiplexedConnection, _| {
            let run_id = run_id.clone();
            Box::pin(async move {
                match check_server(connection).await {
                    Ok(identity) if identity.run_id == run_id => Ok(()),
                    Ok(_) => Err(HookError::message("a different Redis process is at this address")),
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
