//! Where the master is: at an address that stays, or where sentinels or the
//! nodes of a cluster say.

use std::time::Duration;

use url::Url;

use super::{
    address::Address,
    server_info::StartError,
    topology::{Advisers, Masters, Place, Question},
};
use crate::config::SecretUrl;

/// Knows whom to ask where the master is.
pub(super) struct Locator {
    source: Source,
    shown: String,
}

enum Source {
    Fixed(Box<Address>),
    Sentinel { sentinels: Advisers, master: String, node: Node },
    Cluster { nodes: Advisers, node: Node },
}

/// A server that was found, and has yet to be checked.
#[derive(Clone)]
pub(super) struct Located {
    pub(super) address: Address,
    /// Host and port; `None` where there is no other that it could be.
    place: Option<Place>,
}

/// How to connect to any server of the set.
struct Node {
    /// An address without host and port.
    template: Url,
    timeout: Duration,
}

impl Locator {
    const SENTINEL_PORT: u16 = 26379;
    const REDIS_PORT: u16 = 6379;

    /// # Errors
    /// When the address is of no form that is known, or says too little.
    pub(super) fn parse(url: &SecretUrl, timeout: Duration) -> Result<Self, StartError> {
        let shown = url.to_string();
        let source = match url.scheme() {
            "redis" | "rediss" | "redis+unix" if url.more_hosts().is_empty() => {
                Source::Fixed(Box::new(Address::parse(url.reveal(), &shown, timeout)?))
            }
            "redis" | "rediss" | "redis+unix" => {
                return Err(bad(&shown, "it names several hosts; redis+sentinel:// and redis+cluster:// do"));
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
        let master = master.ok_or_else(|| bad(shown, "the name of the master stands behind the hosts: …/NAME"))?;
        let database = path.next().unwrap_or("0");
        if database.parse::<u32>().is_err() || path.next().is_some() {
            return Err(bad(shown, "behind the name of the master there is the number of a database at most"));
        }
        let [tls, user, password] = options(url, shown, ["tls", "sentinel_username", "sentinel_password"])?;
        let mut node = Node::new(url, tls.as_deref() == Some("true"), timeout)?;
        let sentinel = node.with_user(user.as_deref().unwrap_or_default(), password.as_deref());
        let sentinels = advisers(url, shown, &sentinel, Self::SENTINEL_PORT)?;
        node.template.set_path(database);
        Ok(Source::Sentinel { sentinels, master: master.to_owned(), node })
    }

    fn cluster(url: &SecretUrl, shown: &str, timeout: Duration) -> Result<Source, StartError> {
        if !matches!(url.parts().path(), "" | "/" | "/0") {
            return Err(bad(shown, "a cluster has one database, so nothing stands behind the hosts"));
        }
        let [tls] = options(url, shown, ["tls"])?;
        let node = Node::new(url, tls.as_deref() == Some("true"), timeout)?;
        Ok(Source::Cluster { nodes: advisers(url, shown, &node, Self::REDIS_PORT)?, node })
    }

    /// The address that was given, without its secrets.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether keys with different tags can be in different places.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.source, Source::Cluster { .. })
    }

    /// Finds the master of the keys with this hash tag.
    ///
    /// # Errors
    /// When nobody says in time.
    pub(super) async fn locate(&self, tag: &str) -> Result<Located, StartError> {
        if let Source::Fixed(address) = &self.source {
            return Ok(Located { address: (**address).clone(), place: None });
        }
        let masters = self.masters().await?;
        let place = masters.of(tag).ok_or_else(|| StartError::Away("no server has this hash slot".into()))?;
        self.at(place)
    }

    /// Who is the master of which hash slots, where that is to be asked for.
    ///
    /// # Errors
    /// When nobody says in time.
    pub(super) async fn masters(&self) -> Result<Masters, StartError> {
        match &self.source {
            Source::Fixed(_) => Ok(Masters::default()),
            Source::Sentinel { sentinels, master, .. } => sentinels.ask(Question::WhereIs { master }).await,
            Source::Cluster { nodes, .. } => nodes.ask(Question::WhoHasWhat).await,
        }
    }

    /// How the server at this place is reached.
    ///
    /// # Errors
    /// When it is no host and port.
    pub(super) fn at(&self, place: &Place) -> Result<Located, StartError> {
        let address = match &self.source {
            Source::Fixed(address) => (**address).clone(),
            Source::Sentinel { node, .. } => node.at(&place.0, place.1)?,
            Source::Cluster { node, nodes } => {
                let address = node.at(&place.0, place.1)?;
                nodes.learn(&address);
                address
            }
        };
        Ok(Located { address, place: Some(place.clone()) })
    }

    /// Where the master has gone, if it is surely elsewhere than it was.
    pub(super) async fn has_moved(&self, tag: &str, before: &Located) -> Option<String> {
        before.place.as_ref()?;
        let now = self.locate(tag).await.ok()?;
        (now.place != before.place).then_some(now.address.shown)
    }
}

impl Node {
    fn new(url: &SecretUrl, is_tls: bool, timeout: Duration) -> Result<Self, StartError> {
        let empty = if is_tls { "rediss://host" } else { "redis://host" };
        let template = Url::parse(empty).map_err(|error| bad(empty, &error.to_string()))?;
        let node = Self { template, timeout };
        // As they stand in the address, that is, encoded.
        let user = decode(url.parts().username());
        Ok(node.with_user(&user, url.parts().password().map(decode).as_deref()))
    }

    fn with_user(&self, user: &str, password: Option<&str>) -> Self {
        let mut template = self.template.clone();
        // Neither fails for an address with a host.
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
            return Err(bad(&shown, "it is no host and port"));
        }
        Address::parse(url.as_str(), &shown, self.timeout)
    }
}

/// All hosts of an address, each with how it is reached.
fn advisers(url: &SecretUrl, shown: &str, node: &Node, port: u16) -> Result<Advisers, StartError> {
    let first = url.parts().host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let mut hosts = vec![(first, url.parts().port().unwrap_or(port))];
    for more in url.more_hosts() {
        let parsed = Url::parse(&format!("redis://{more}")).map_err(|error| bad(shown, &error.to_string()))?;
        let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        hosts.push((host, parsed.port().unwrap_or(port)));
    }
    if hosts.iter().any(|(host, _)| host.is_empty()) {
        return Err(bad(shown, "a host is missing"));
    }
    let found = hosts.iter().map(|(host, port)| node.at(host, *port)).collect::<Result<_, _>>()?;
    Ok(Advisers::new(found))
}

/// The values of these parameters; others are an error.
fn options<const N: usize>(
    url: &SecretUrl,
    shown: &str,
    names: [&'static str; N],
) -> Result<[Option<String>; N], StartError> {
    let mut values = [const { None }; N];
    for (name, value) in url.parts().query_pairs() {
        let Some(slot) = names.iter().position(|known| *known == name).and_then(|at| values.get_mut(at)) else {
            // What is taken for a name may be the rest of a password.
            let known = names.join(", ");
            return Err(bad(
                shown,
                &format!("a parameter is unknown; there are {known}; write & in a password as %26"),
            ));
        };
        *slot = Some(value.into_owned());
    }
    Ok(values)
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn bad(shown: &str, reason: &str) -> StartError {
    StartError::Address { url: shown.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Vec<String>, String> {
        let locator = Locator::parse(&url.parse::<SecretUrl>().map_err(|error| error.to_string())?, Duration::ZERO);
        match locator.map_err(|error| error.to_string())?.source {
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
    fn an_address_names_sentinels_or_nodes() {
        let sentinel = "redis+sentinel://ana:p%40ss@a:1,b,[::1]:3/main/2?sentinel_password=x&tls=true";
        let expected = ["rediss://a:1", "rediss://b:26379", "rediss://::1:3", "main", "rediss://ana:p%40ss@host/2"];
        assert_eq!(parse(sentinel).unwrap(), expected);
        assert_eq!(parse("redis+cluster://a,b:2").unwrap(), ["redis://a:6379", "redis://b:2", "redis://host"]);
        assert_eq!(parse("redis://:p@a/1").unwrap(), ["redis://:***@a/1"]);
    }

    #[test]
    fn what_an_address_lacks_is_said_without_its_secrets() {
        for (url, complaint) in [
            ("redis+sentinel://:s3cret@a:1,b:2", "the name of the master"),
            ("redis+sentinel://:s3cret@a:1,b:2/", "the name of the master"),
            ("redis+sentinel://:s3cret@a/main/x", "the number of a database"),
            ("redis+sentinel://:s3cret@a,,c/main", "a host is missing"),
            ("redis+sentinel://:s3cret@a,b:x/main", "invalid port"),
            ("redis+sentinel://:s3cret@a/main?sentinel_pasword=s3cret", "a parameter is unknown"),
            ("redis+cluster://:s3cret@a/1", "one database"),
            ("redis+cluster://:s3cret@a?db=1", "a parameter is unknown"),
            ("redis://:s3cret@a,b", "several hosts"),
            ("http://a", "redis+sentinel://"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(complaint) && !error.contains("s3cret"), "{url}: {error}");
        }
    }
}
