use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, thread, time::Duration};

use ipnet::IpNet;

use super::duration;

/// Where and how to listen.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenSettings {
    /// The address to serve
    #[arg(long, env = "LOCKABLE_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    #[command(flatten)]
    pub tls: TlsSettings,

    /// Networks of proxies whose word is taken for where a client is, separated by commas: X-Forwarded-For, and the PROXY protocol if it is on
    #[arg(long, env = "LOCKABLE_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NETWORK")]
    pub trusted_proxies: Vec<IpNet>,

    /// Whether connections from those networks begin with a header of the PROXY protocol, version 2
    #[arg(long, env = "LOCKABLE_PROXY_PROTOCOL", default_value_t = false, action = clap::ArgAction::Set, value_name = "true|false")]
    pub proxy_protocol: bool,

    /// How long a client may take to send its request line and headers, and to finish a TLS handshake
    #[arg(long, env = "LOCKABLE_HEADER_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub header_timeout: Duration,

    /// How long a request may take in all, beside what it waits for a lock
    #[arg(long, env = "LOCKABLE_REQUEST_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub request_timeout: Duration,

    /// How long to let requests finish after SIGTERM
    #[arg(long, env = "LOCKABLE_DRAIN_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub drain_timeout: Duration,

    /// How many connections to hold at once; more wait in the system's queue
    #[arg(long, env = "LOCKABLE_CONNECTIONS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub connections: u32,

    /// How many of them one client address may have; those of trusted proxies are not counted
    #[arg(long, env = "LOCKABLE_CONNECTIONS_PER_ADDRESS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub connections_per_address: u32,

    /// How many threads serve connections; half as many as there are processors, rounded up, unless set
    #[arg(long, env = "LOCKABLE_WORKERS", value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    pub workers: Option<u16>,
}

impl ListenSettings {
    /// How many threads serve connections.
    ///
    /// One asks as much as one Redis can answer (both take about 10 µs for a
    /// request), and the fewer they are, the more requests go to Redis at once, and
    /// the less each costs. The other processors are for TLS handshakes, passwords,
    /// the system's network, and for Redis where it is on the same machine.
    pub fn workers(&self) -> usize {
        let half = || thread::available_parallelism().map_or(1, NonZeroUsize::get).div_ceil(2).min(256);
        self.workers.map_or_else(half, usize::from)
    }
}

/// HTTPS, when both files are given. They are read again when they change.
#[derive(Clone, Debug, clap::Args)]
pub struct TlsSettings {
    /// Certificate chain, PEM; with it HTTPS is served
    #[arg(id = "tls-cert", long, env = "LOCKABLE_TLS_CERT", requires = "tls-key", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// Private key, PEM
    #[arg(id = "tls-key", long, env = "LOCKABLE_TLS_KEY", requires = "tls-cert", value_name = "FILE")]
    pub key: Option<PathBuf>,
}
