use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client address of a request: the rightmost hop that is not a trusted proxy. Hops further left in
/// `X-Forwarded-For` are written by the client, and are not trustworthy.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    for field in headers.get_all(&FORWARDED_FOR).iter().rev() {
        for hop in field.to_str().unwrap_or_default().rsplit(',') {
            if !is_trusted(address, trusted) {
                return address;
            }
            match parse_hop(hop.trim()) {
                Some(hop) => address = hop.to_canonical(),
                // A trusted proxy would not write this.
                None => return address,
            }
        }
    }
    address
}

/// Whether the address belongs to a trusted proxy.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address.to_canonical()))
}

/// Parses an address with an optional port, which some proxies add.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    if let Ok(address) = hop.parse() {
        return Some(address);
    }
    if let Ok(with_port) = hop.parse::<std::net::SocketAddr>() {
        return Some(with_port.ip());
    }
    hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn found(peer: &str, fields: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("x-forwarded-for", HeaderValue::from_str(field).unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8:aa::/48".parse().unwrap()];
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn client_is_the_rightmost_untrusted_hop() {
        assert_eq!(found("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "the header of an untrusted peer is ignored");
        assert_eq!(found("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(found("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.9"]), "198.51.100.7");
        assert_eq!(found("10.0.0.1", &["1.1.1.1", "198.51.100.7"]), "198.51.100.7", "two fields");
        assert_eq!(found("::ffff:10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(found("2001:db8:aa::1", &["[2001:db8:bb::2]:4711"]), "2001:db8:bb::2");
        assert_eq!(found("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(found("10.0.0.1", &["1.1.1.1, nonsense"]), "10.0.0.1");
    }
}
