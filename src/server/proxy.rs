use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Size of the fixed part of a version 2 header: a signature of twelve bytes that no other protocol
/// sends, the command, the address family, and the number of bytes that follow.
const FIXED_BYTES: usize = 16;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Maximum number of bytes that follow: addresses take 36, TLS details of proxies a few hundred.
const REST_BYTES_MAX: usize = 2048;

/// Reads a PROXY protocol header, version 2, in which a load balancer sends the client's address.
/// Returns `None` for a connection of the balancer itself, such as a health check.
///
/// # Errors
/// If the header is missing or invalid. A balancer that is configured to send headers always does;
/// without one the peer's address must not be trusted.
pub(super) async fn read_client(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; FIXED_BYTES];
    stream.read_exact(&mut header).await?;
    let rest = match &*header {
        [signature @ .., _, _, high, low] if signature == SIGNATURE => usize::from(u16::from_be_bytes([*high, *low])),
        _ => return Err(malformed("the connection does not begin with a PROXY protocol header, version 2")),
    };
    if rest > REST_BYTES_MAX {
        return Err(malformed("the PROXY protocol header is too long"));
    }
    header.resize(FIXED_BYTES + rest, 0);
    stream.read_exact(header.get_mut(FIXED_BYTES..).unwrap_or_default()).await?;
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (header, _) = ProxyHeader::parse(&header, config).map_err(malformed)?;
    Ok(header.proxied_address().map(|address| address.source))
}

fn malformed(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// Parses a header for the fuzzer.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    use futures_util::FutureExt;
    let mut stream = data;
    if let Some(Ok(_)) = read_client(&mut stream).now_or_never() {
        assert!(data.len() - stream.len() <= FIXED_BYTES + REST_BYTES_MAX);
    }
}
