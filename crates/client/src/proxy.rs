use std::env;

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::Error;

/// The proxy that the environment sets for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The proxy's address, without credentials.
    pub address: String,
    /// The variable that sets the proxy.
    pub variable: &'static str,
    /// The value of the variable, including credentials.
    pub(super) value: String,
}

impl Proxy {
    /// Finds the proxy for a server by curl's rules, with two differences: `NO_PROXY=*` also excludes
    /// IP addresses, and an empty variable counts as unset.
    ///
    /// # Errors
    /// When the variable is not the address of a usable proxy.
    pub(super) fn of(url: &Url) -> Result<Option<Self>, Error> {
        // In a CGI program, HTTP_PROXY is the client's header field `Proxy` (httpoxy).
        if env::var_os("REQUEST_METHOD").is_some() {
            return Ok(None);
        }
        let Ok(target) = url.as_str().parse::<Uri>() else { return Ok(None) };
        let own = match url.scheme() {
            "https" => ["HTTPS_PROXY", "https_proxy"],
            _ => ["HTTP_PROXY", "http_proxy"],
        };
        let Some((variable, value)) = first_set(&own).or_else(|| first_set(&["ALL_PROXY", "all_proxy"])) else {
            return Ok(None);
        };
        let (_, excluded) = first_set(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
        let is_excluded = excluded.split(',').any(|entry| entry.trim() == "*")
            || Matcher::builder().all("http://proxy").no(excluded).build().intercept(&target).is_none();
        if is_excluded {
            return Ok(None);
        }
        match Matcher::builder().all(value.clone()).build().intercept(&target) {
            Some(found) => {
                let address = found.uri().to_string().trim_end_matches('/').to_owned();
                Ok(Some(Self { address, variable, value }))
            }
            None => Err(Error::Malformed(format!("{variable} is not the address of an HTTP or SOCKS proxy"))),
        }
    }
}

fn first_set(names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| Some((*name, env::var(name).ok().filter(|value| !value.is_empty())?)))
}
