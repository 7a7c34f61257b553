use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What every header of version 2 begins with: twelve bytes that no other
/// protocol sends, the command, the family, and how many bytes follow.
const FIXED_BYTES: usize = 16;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// How many bytes may follow; addresses take 36, and what proxies add about TLS
/// a few hundred.
const REST_BYTES_MAX: usize = 2048;

/// Reads the header of the PROXY protocol, version 2, with which a balancer says
/// whose connection it passes on. Returns where the client is, or `None` for a
/// connection of the balancer's own, as for a health check.
///
/// # Errors
/// When there is no such header: a balancer that is to send one always does, and
/// to guess would be to believe anybody.
pub(super) async fn read_client(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; FIXED_BYTES];
    stream.read_exact(&mut header).await?;
    let rest = match &*header {
        [signature @ .., _, _, high, low] if signature == SIGNATURE => usize::from(u16::from_be_bytes([*high, *low])),
        _ => return Err(malformed("it does not begin with a header of the PROXY protocol, version 2")),
    };
    if rest > REST_BYTES_MAX {
        return Err(malformed("the header of the PROXY protocol is too long"));
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

/// The header, for the fuzzer.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    use futures_util::FutureExt;
    let mut stream = data;
    if let Some(Ok(_)) = read_client(&mut stream).now_or_never() {
        assert!(data.len() - stream.len() <= FIXED_BYTES + REST_BYTES_MAX);
    }
}
