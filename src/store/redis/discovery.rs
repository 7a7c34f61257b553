//! Finds the master: at a fixed address, or through Sentinels or the nodes of a cluster.

use std::time::Duration;

use url::Url;

use super::{
    address::Address,
    server_info::StartError,
    topology::{HostPort, SlotMap, Topology, TopologyQuery},
};
use crate::config::SecretUrl;

/// Finds the master of a hash tag.
pub(super) struct Discovery {
    source: Source,
    shown: String,
}

enum Source {
    Fixed(Box<Address>),
    Sentinel { sentinels: Topology, master: String, node: NodeTemplate },
    Cluster { nodes: Topology, node: NodeTemplate },
}

/// A server that was found and is not checked yet.
#[derive(Clone)]
pub(super) struct LocatedServer {
    pub(super) address: Address,
    /// Host and port; `None` for a fixed address.
    host_port: Option<HostPort>,
}

/// The connection settings of every server of the set.
struct NodeTemplate {
    /// A URL with a placeholder host and without a port.
    template: Url,
    timeout: Duration,
}

impl Discovery {
    const SENTINEL_PORT: u16 = 26379;
    const REDIS_PORT: u16 = 6379;

    /// # Errors
    /// When the address has an unknown form, or lacks a part.
    pub(super) fn parse(url: &SecretUrl, timeout: Duration) -> Result<Self, StartError> {
        let shown = url.to_string();
        let source = match url.scheme() {
            "redis" | "rediss" | "redis+unix" if url.more_hosts().is_empty() => {
                Source::Fixed(Box::new(Address::parse(url.reveal(), &shown, timeout)?))
            }
            "redis" | "rediss" | "redis+unix" => {
                return Err(invalid_address(&shown, "several hosts need redis+sentinel:// or redis+cluster://"));
            }
            "redis+sentinel" => Self::sentinel(url, &shown, timeout)?,
            "redis+cluster" => Self::cluster(url, &shown, timeout)?,
            scheme => return Err(StartError::Scheme(scheme.to_owned())),
        };
        Ok(Self { source, shown })
    }

    fn sentinel(url: &SecretUrl, shown: &str, timeout: Duration) -> Result<Source, StartError> {
        let mut path = url.parts().path_segments().into_iter().flatten();
        let master = path.next().filter(|name| !name.is_empty());
        let master = master.ok_or_else(|| invalid_address(shown, "add the master name after the hosts: …/NAME"))?;
        let database = path.next().unwrap_or("0");
        if database.parse::<u32>().is_err() || path.next().is_some() {
            return Err(invalid_address(shown, "only a database number may follow the master name"));
        }
        let [tls, user, password] = options(url, shown, ["tls", "sentinel_username", "sentinel_password"])?;
        let mut node = NodeTemplate::new(url, tls.as_deref() == Some("true"), timeout)?;
        let sentinel = node.with_user(user.as_deref().unwrap_or_default(), password.as_deref());
        let sentinels = parse_hosts(url, shown, &sentinel, Self::SENTINEL_PORT)?;
        node.template.set_path(database);
        Ok(Source::Sentinel { sentinels, master: master.to_owned(), node })
    }

    fn cluster(url: &SecretUrl, shown: &str, timeout: Duration) -> Result<Source, StartError> {
        if !matches!(url.parts().path(), "" | "/" | "/0") {
            return Err(invalid_address(shown, "a cluster has one database; remove the path after the hosts"));
        }
        let [tls] = options(url, shown, ["tls"])?;
        let node = NodeTemplate::new(url, tls.as_deref() == Some("true"), timeout)?;
        Ok(Source::Cluster { nodes: parse_hosts(url, shown, &node, Self::REDIS_PORT)?, node })
    }

    /// The configured address without secrets.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether keys with different hash tags may be on different nodes.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.source, Source::Cluster { .. })
    }

    /// Finds the master of the keys with this hash tag.
    ///
    /// # Errors
    /// When no server replies in time.
    pub(super) async fn locate(&self, tag: &str) -> Result<LocatedServer, StartError> {
        if let Source::Fixed(address) = &self.source {
            return Ok(LocatedServer { address: (**address).clone(), host_port: None });
        }
        let slot_map = self.slot_map().await?;
        let host_port =
            slot_map.of(tag).ok_or_else(|| StartError::Unreachable("no server has this hash slot".into()))?;
        self.at(host_port)
    }

    /// The master of each hash slot; empty for a fixed address.
    ///
    /// # Errors
    /// When no server replies in time.
    pub(super) async fn slot_map(&self) -> Result<SlotMap, StartError> {
        match &self.source {
            Source::Fixed(_) => Ok(SlotMap::default()),
            Source::Sentinel { sentinels, master, .. } => {
                sentinels.query(TopologyQuery::SentinelMaster { master }).await
            }
            Source::Cluster { nodes, .. } => nodes.query(TopologyQuery::ClusterSlots).await,
        }
    }

    /// The address of the server at this host and port.
    ///
    /// # Errors
    /// When host or port is invalid.
    pub(super) fn at(&self, host_port: &HostPort) -> Result<LocatedServer, StartError> {
        let address = match &self.source {
            Source::Fixed(address) => (**address).clone(),
            Source::Sentinel { node, .. } => node.at(&host_port.0, host_port.1)?,
            Source::Cluster { node, nodes } => {
                let address = node.at(&host_port.0, host_port.1)?;
                nodes.prefer(&address);
                address
            }
        };
        Ok(LocatedServer { address, host_port: Some(host_port.clone()) })
    }

    /// The master's new address, if the master is certainly a different server than before.
    pub(super) async fn has_moved(&self, tag: &str, before: &LocatedServer) -> Option<String> {
        before.host_port.as_ref()?;
        let now = self.locate(tag).await.ok()?;
        (now.host_port != before.host_port).then_some(now.address.shown)
    }
}

impl NodeTemplate {
    fn new(url: &SecretUrl, is_tls: bool, timeout: Duration) -> Result<Self, StartError> {
        let empty = if is_tls { "rediss://host" } else { "redis://host" };
        let template = Url::parse(empty).map_err(|error| invalid_address(empty, &error.to_string()))?;
        let node = Self { template, timeout };
        // The URL has them percent-encoded.
        let user = decode(url.parts().username());
        Ok(node.with_user(&user, url.parts().password().map(decode).as_deref()))
    }

    fn with_user(&self, user: &str, password: Option<&str>) -> Self {
        let mut template = self.template.clone();
        // Neither fails for a URL with a host.
        let _ = template.set_username(user);
        let _ = template.set_password(password);
        Self { template, timeout: self.timeout }
    }

    fn at(&self, host: &str, port: u16) -> Result<Address, StartError> {
        let shown = format!("{}://{host}:{port}", self.template.scheme());
        let mut url = self.template.clone();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let is_set = url.set_host(Some(&host)).is_ok() && url.set_port(Some(port)).is_ok();
        if !is_set {
            return Err(invalid_address(&shown, "invalid host or port"));
        }
        Address::parse(url.as_str(), &shown, self.timeout)
    }
}

/// The addresses of all hosts in the URL.
fn parse_hosts(url: &SecretUrl, shown: &str, node: &NodeTemplate, port: u16) -> Result<Topology, StartError> {
    let first = url.parts().host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let mut hosts = vec![(first, url.parts().port().unwrap_or(port))];
    for more in url.more_hosts() {
        let parsed =
            Url::parse(&format!("redis://{more}")).map_err(|error| invalid_address(shown, &error.to_string()))?;
        let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        hosts.push((host, parsed.port().unwrap_or(port)));
    }
    if hosts.iter().any(|(host, _)| host.is_empty()) {
        return Err(invalid_address(shown, "a host is missing"));
    }
    let found = hosts.iter().map(|(host, port)| node.at(host, *port)).collect::<Result<_, _>>()?;
    Ok(Topology::new(found))
}

/// The values of these query parameters. Any other parameter is an error.
fn options<const N: usize>(
    url: &SecretUrl,
    shown: &str,
    names: [&'static str; N],
) -> Result<[Option<String>; N], StartError> {
    let mut values = [const { None }; N];
    for (name, value) in url.parts().query_pairs() {
        let Some(slot) = names.iter().position(|known| *known == name).and_then(|at| values.get_mut(at)) else {
            // The message omits the parameter: it may be the rest of a password.
            let known = names.join(", ");
            return Err(invalid_address(
                shown,
                &format!("unknown parameter; the parameters are {known}; write & in a password as %26"),
            ));
        };
        *slot = Some(value.into_owned());
    }
    Ok(values)
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn invalid_address(shown: &str, reason: &str) -> StartError {
    StartError::Address { url: shown.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Vec<String>, String> {
        let discovery = Discovery::parse(&url.parse::<SecretUrl>().map_err(|error| error.to_string())?, Duration::ZERO);
        match discovery.map_err(|error| error.to_string())?.source {
            Source::Fixed(address) => Ok(vec![address.shown]),
            Source::Sentinel { sentinels, master, node } => {
                let shown = sentinels.all().into_iter().map(|sentinel| sentinel.shown);
                Ok(shown.chain([master, node.template.to_string()]).collect())
            }
            Source::Cluster { nodes, node } => {
                Ok(nodes.all().into_iter().map(|node| node.shown).chain([node.template.to_string()]).collect())
            }
        }
    }

    #[test]
    fn address_lists_sentinels_or_nodes() {
        let sentinel = "redis+sentinel://ana:p%40ss@a:1,b,[::1]:3/main/2?sentinel_password=x&tls=true";
        let expected = ["rediss://a:1", "rediss://b:26379", "rediss://::1:3", "main", "rediss://ana:p%40ss@host/2"];
        assert_eq!(parse(sentinel).unwrap(), expected);
        assert_eq!(parse("redis+cluster://a,b:2").unwrap(), ["redis://a:6379", "redis://b:2", "redis://host"]);
        assert_eq!(parse("redis://:p@a/1").unwrap(), ["redis://:***@a/1"]);
    }

    #[test]
    fn address_errors_contain_no_secrets() {
        for (url, complaint) in [
            ("redis+sentinel://:s3cret@a:1,b:2", "the master name"),
            ("redis+sentinel://:s3cret@a:1,b:2/", "the master name"),
            ("redis+sentinel://:s3cret@a/main/x", "a database number"),
            ("redis+sentinel://:s3cret@a,,c/main", "a host is missing"),
            ("redis+sentinel://:s3cret@a,b:x/main", "invalid port"),
            ("redis+sentinel://:s3cret@a/main?sentinel_pasword=s3cret", "unknown parameter"),
            ("redis+cluster://:s3cret@a/1", "one database"),
            ("redis+cluster://:s3cret@a?db=1", "unknown parameter"),
            ("redis://:s3cret@a,b", "several hosts"),
            ("http://a", "redis+sentinel://"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(complaint) && !error.contains("s3cret"), "{url}: {error}");
        }
    }
}
