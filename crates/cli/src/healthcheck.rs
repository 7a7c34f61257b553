use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Check whether the server on this machine is ready, for containers without curl
///
/// Exits with 0 if it is ready, else with 1
#[derive(Debug, clap::Args)]
pub struct Healthcheck {
    /// The admin address of the server
    #[arg(long, env = "LOCKABLE_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    pub admin_listen: SocketAddr,

    /// Check only whether the server is alive
    #[arg(long)]
    pub live: bool,
}

const TIMEOUT: Duration = Duration::from_secs(2);
/// More than any health answer has.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Returns whether the server is ready, and the body of its answer.
///
/// # Errors
/// When the server is unreachable, or does not answer in time.
pub fn healthcheck(check: &Healthcheck) -> io::Result<(bool, String)> {
    let address = reachable(check.admin_listen);
    let path = if check.live { "/livez" } else { "/readyz" };
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.starts_with("HTTP/1.1 200 "), body.trim().to_owned()))
}

/// Replaces the unspecified address, on which a server listens to all, by the loopback address.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let address = match listening.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listening.port())
}
