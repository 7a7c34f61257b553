use url::{Host, Url};

/// The account page.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Account page")]
pub struct PageSettings {
    #[command(flatten)]
    pub public: PublicUrl,

    /// Whether anybody may make an account; by default only with SQLite and where no other machine reaches the server: on a loopback address, without trusted proxies, and with no public URL of another host
    #[arg(long, env = "LOCKABLE_SIGN_UP", value_name = "true|false")]
    pub sign_up: Option<bool>,

    /// The plan of those who do
    #[arg(long, env = "LOCKABLE_SIGN_UP_PLAN", default_value = "hobbyist", value_name = "PLAN")]
    pub sign_up_plan: String,
}

/// Where clients reach the service.
#[derive(Clone, Debug, clap::Args)]
pub struct PublicUrl {
    /// Where clients reach the service, for the links and lines to copy that it shows; by default where a request came in
    #[arg(long, env = "LOCKABLE_PUBLIC_URL", value_parser = origin, value_name = "URL")]
    pub public_url: Option<Url>,
}

impl PublicUrl {
    /// The origin, without a slash at its end.
    pub fn origin(&self) -> Option<String> {
        self.public_url.as_ref().map(|url| url.origin().ascii_serialization())
    }

    /// Whether no other machine is said to reach the service.
    pub fn is_local(&self) -> bool {
        self.public_url.as_ref().is_none_or(|url| match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
            None => false,
        })
    }
}

/// The API and the pages are at the root, and nobody reads more into the address.
fn origin(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let is_origin = matches!(url.scheme(), "http" | "https")
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty();
    is_origin.then_some(url).ok_or_else(|| "it is https:// or http:// and a host, with no path".into())
}
