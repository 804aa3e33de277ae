//! By which names a listener without authentication may be addressed.
//!
//! A web page that somebody opens can send requests to every address that the browser reaches, also
//! to this machine. So requests that a foreign page sent are refused, and those for a name that is
//! not this machine's: a page can make its own name resolve to any address (DNS rebinding).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::Method;
use hyper::header::{HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::http::uri::Authority;

use crate::text::Quoted;

/// Set by browsers: where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The names of this machine.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts {
    /// Whether every name is allowed.
    any: bool,
    /// In lower case.
    names: BTreeSet<String>,
    /// Those of the configuration, in lower case: pages under these names may send requests too.
    configured: BTreeSet<String>,
}

impl AllowedHosts {
    /// The configured names, that of this machine, and that under which it is advertised.
    #[must_use]
    pub fn new(configured: &[String], advertised: &str) -> Arc<Self> {
        let configured: BTreeSet<_> = configured
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect();
        let advertised = advertised
            .parse::<hyper::Uri>()
            .ok()
            .and_then(|uri| uri.host().map(str::to_ascii_lowercase));
        let hostname = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .map(|name| name.to_ascii_lowercase());
        Arc::new(Self {
            any: configured.contains("*"),
            names: configured
                .iter()
                .cloned()
                .chain(advertised)
                .chain(hostname)
                .collect(),
            configured,
        })
    }

    /// Why a request is refused. `uri` is the host in the request's URI.
    #[must_use]
    pub fn refusal(
        &self,
        method: &Method,
        uri: Option<&Authority>,
        headers: &HeaderMap,
    ) -> Option<String> {
        if self.any {
            return None;
        }
        // Browsers always say for which host a request is.
        let host = match headers.get(HOST) {
            None => None,
            Some(host) => match host.to_str().ok().and_then(|host| host.parse().ok()) {
                Some(host) => Some(host),
                None => return Some(unknown_host(host.as_bytes())),
            },
        };
        for host in host.iter().chain(uri) {
            if host.as_str().contains('@') || !self.is_known(host.host()) {
                return Some(unknown_host(host.host().as_bytes()));
            }
        }
        if let Some(origin) = headers.get(ORIGIN)
            && !self.is_own_origin(origin.as_bytes(), host.as_ref())
        {
            return Some(format!(
                "requests of pages from {} are not accepted",
                Quoted(origin.as_bytes())
            ));
        }
        if is_of_foreign_page(headers) && method != Method::GET && method != Method::HEAD {
            return Some("requests of pages from other sites are not accepted".to_owned());
        }
        None
    }

    fn is_known(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse::<IpAddr>().is_ok() || self.names.contains(&host)
    }

    fn is_own_origin(&self, origin: &[u8], host: Option<&Authority>) -> bool {
        let Some((scheme, authority)) = std::str::from_utf8(origin)
            .ok()
            .and_then(|origin| origin.split_once("://"))
        else {
            return false;
        };
        let Ok(origin) = authority.parse::<Authority>() else {
            return false;
        };
        let default = if scheme == "https" { 443 } else { 80 };
        let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
        let same = host.is_some_and(|host| {
            host.host().eq_ignore_ascii_case(origin.host()) && port(host) == port(&origin)
        });
        // A proxy may have changed the host.
        same || self
            .configured
            .contains(&origin.host().to_ascii_lowercase())
    }
}

/// Whether a browser says that a page of another site sends the request. Browsers say so only to servers
/// with TLS, and to those of the own host.
#[must_use]
pub fn is_of_foreign_page(headers: &HeaderMap) -> bool {
    let site = headers.get(SEC_FETCH_SITE);
    site.is_some_and(|site| site != "same-origin" && site != "none")
}

fn unknown_host(host: &[u8]) -> String {
    format!(
        "{} is not a name of this host; use its address, or add the name to allowed_hosts in the \
         configuration",
        Quoted(host)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_accepted(allowed: &AllowedHosts, method: &Method, headers: &[(&str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        });
        allowed.refusal(method, None, &headers.collect()).is_none()
    }

    #[test]
    fn only_names_of_this_machine_are_accepted() {
        let configured = ["Status.example".to_owned()];
        let allowed = AllowedHosts::new(&configured, "https://master-1.example:6992");
        let own = nix::unistd::gethostname().unwrap().into_string().unwrap();
        for (host, accepted) in [
            ("127.0.0.1:6993", true),
            ("10.84.22.1", true),
            ("[2001:db8::1]:6993", true),
            ("localhost:6993", true),
            ("LOCALHOST.", true),
            (&*own, true),
            ("master-1.example:6993", true),
            ("status.EXAMPLE", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:6993", false),
            ("master-1.example.evil.example", false),
            ("user@localhost", false),
            ("", false),
            ("a b", false),
        ] {
            let is = is_accepted(&allowed, &Method::GET, &[("host", host)]);
            assert_eq!(is, accepted, "{host:?}");
        }
        assert!(is_accepted(&allowed, &Method::GET, &[]));
        let any = AllowedHosts::new(&["*".to_owned()], "");
        assert!(is_accepted(&any, &Method::PUT, &[("host", "evil.example")]));
    }

    #[test]
    fn requests_of_foreign_pages_are_refused() {
        let configured = ["status.example".to_owned()];
        let allowed = AllowedHosts::new(&configured, "");
        let host = ("host", "127.0.0.1:6993");
        for (origin, accepted) in [
            ("http://127.0.0.1:6993", true),
            ("https://status.example", true),
            ("http://127.0.0.1", false),
            ("http://localhost:6993", false),
            ("https://evil.example", false),
            ("null", false),
            ("http://127.0.0.1:6993.evil.example", false),
        ] {
            for method in [Method::GET, Method::POST, Method::PUT] {
                let is = is_accepted(&allowed, &method, &[host, ("origin", origin)]);
                assert_eq!(is, accepted, "{origin}");
            }
        }
        for (site, accepted) in [("same-origin", true), ("none", true), ("cross-site", false)] {
            let headers = [host, ("sec-fetch-site", site)];
            assert_eq!(is_accepted(&allowed, &Method::PUT, &headers), accepted);
            // Somebody may follow a link to the page.
            assert!(is_accepted(&allowed, &Method::GET, &headers));
        }
    }
}
