use url::{Host, Url};

/// Settings of the account page.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Account page")]
pub struct PageSettings {
    #[command(flatten)]
    pub public: PublicUrl,

    /// Whether anyone can sign up. Default: true only with SQLite and without access from other
    /// machines, that is on a loopback address, without trusted proxies, and without a public URL
    /// of another host
    #[arg(long, env = "LOCKABLE_SIGN_UP", value_name = "true|false")]
    pub sign_up: Option<bool>,

    /// Plan of accounts that sign up
    #[arg(long, env = "LOCKABLE_SIGN_UP_PLAN", default_value = "hobbyist", value_name = "PLAN")]
    pub sign_up_plan: String,
}

/// The service's public URL.
#[derive(Clone, Debug, clap::Args)]
pub struct PublicUrl {
    /// Public URL of the service, used in links and in example commands. Default: the Host of each
    /// request
    #[arg(long, env = "LOCKABLE_PUBLIC_URL", value_parser = origin, value_name = "URL")]
    pub public_url: Option<Url>,
}

impl PublicUrl {
    /// Returns the origin without a trailing slash.
    pub fn origin(&self) -> Option<String> {
        self.public_url.as_ref().map(|url| url.origin().ascii_serialization())
    }

    /// Whether the public URL is unset or points to this machine.
    pub fn is_local(&self) -> bool {
        self.public_url.as_ref().is_none_or(|url| match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
            None => false,
        })
    }
}

/// Parses an origin. The API and the pages are served at the root, so a path, query, fragment or
/// user is an error.
fn origin(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let is_origin = matches!(url.scheme(), "http" | "https")
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty();
    is_origin.then_some(url).ok_or_else(|| "expected https:// or http:// and a host, without a path".into())
}
