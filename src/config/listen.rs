use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, thread, time::Duration};

use ipnet::IpNet;

use super::duration;

/// Listener settings.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenSettings {
    /// Address and port to listen on
    #[arg(long, env = "LOCKABLE_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    #[command(flatten)]
    pub tls: TlsSettings,

    /// Networks of trusted proxies, separated by commas: the server takes the client's address from
    /// their X-Forwarded-For header, and from the PROXY protocol if it is enabled
    #[arg(long, env = "LOCKABLE_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NETWORK")]
    pub trusted_proxies: Vec<IpNet>,

    /// Whether connections from trusted proxies begin with a PROXY protocol header, version 2
    #[arg(long, env = "LOCKABLE_PROXY_PROTOCOL", default_value_t = false, action = clap::ArgAction::Set, value_name = "true|false")]
    pub proxy_protocol: bool,

    /// Time limit for a client to send the request line and headers, and to finish a TLS handshake
    #[arg(long, env = "LOCKABLE_HEADER_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub header_timeout: Duration,

    /// Time limit for a request, without the time that it waits for a lock
    #[arg(long, env = "LOCKABLE_REQUEST_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub request_timeout: Duration,

    /// Time limit for requests to finish after SIGTERM
    #[arg(long, env = "LOCKABLE_DRAIN_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub drain_timeout: Duration,

    /// Maximum number of open connections; further connections wait in the system's accept queue
    #[arg(long, env = "LOCKABLE_CONNECTIONS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub connections: u32,

    /// Maximum number of connections per client address; connections of trusted proxies do not
    /// count
    #[arg(long, env = "LOCKABLE_CONNECTIONS_PER_ADDRESS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub connections_per_address: u32,

    /// Number of threads that serve connections. Default: half the number of processors, rounded up
    #[arg(long, env = "LOCKABLE_WORKERS", value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    pub workers: Option<u16>,
}

impl ListenSettings {
    /// The number of threads that serve connections.
    ///
    /// One thread saturates one Redis (both take about 10 µs per request). Fewer threads send more
    /// requests to Redis in one batch, which makes each request cheaper. The other processors serve
    /// TLS handshakes, password hashing, the system's network stack, and Redis if it runs on the
    /// same machine.
    pub fn workers(&self) -> usize {
        let half = || thread::available_parallelism().map_or(1, NonZeroUsize::get).div_ceil(2).min(256);
        self.workers.map_or_else(half, usize::from)
    }
}

/// Certificate and key for HTTPS. The server reloads both files when they change.
#[derive(Clone, Debug, clap::Args)]
pub struct TlsSettings {
    /// Certificate chain in PEM format; enables HTTPS
    #[arg(id = "tls-cert", long, env = "LOCKABLE_TLS_CERT", requires = "tls-key", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// Private key in PEM format
    #[arg(id = "tls-key", long, env = "LOCKABLE_TLS_KEY", requires = "tls-cert", value_name = "FILE")]
    pub key: Option<PathBuf>,
}
