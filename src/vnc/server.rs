//! The address of an API server.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::{Authority, Scheme};

/// Where API servers listen.
const PORT: u16 = 8082;

/// The address of an API server: `host`, `host:port`, or either after `http://` or `https://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    scheme: Scheme,
    authority: Authority,
}

/// Not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an API server's address such as \"https://10.84.22.1:8082\"")]
pub struct NotAServer(String);

impl FromStr for Server {
    type Err = NotAServer;

    fn from_str(text: &str) -> Result<Self, NotAServer> {
        let wrong = || NotAServer(text.to_owned());
        let whole = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        let scheme = uri
            .scheme()
            .filter(|&scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
            .ok_or_else(wrong)?;
        let authority = uri.authority().ok_or_else(wrong)?;
        // Brackets are for IPv6: mesos-manager's own default is the impossible `[127.0.0.1]`.
        let bracketed = authority.host().trim_matches(['[', ']']);
        // A password in an address would end up in messages; a path is no part of the API's.
        if authority.as_str().contains('@')
            || authority.host().is_empty()
            || (authority.host() != bracketed && bracketed.parse::<Ipv6Addr>().is_err())
            || !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
        {
            return Err(wrong());
        }
        let authority = match authority.port() {
            Some(_) => authority.clone(),
            None => format!("{}:{PORT}", authority.host())
                .parse()
                .map_err(|_| wrong())?,
        };
        Ok(Self {
            scheme: scheme.clone(),
            authority,
        })
    }
}

impl Server {
    /// The URI of a path, query included, on this server.
    pub(super) fn uri(&self, path: &str) -> Result<Uri, hyper::http::Error> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for (text, address) in [
            ("10.84.22.1", "http://10.84.22.1:8082"),
            ("api.example", "http://api.example:8082"),
            ("api.example:9100", "http://api.example:9100"),
            ("https://[2001:db8::1]/", "https://[2001:db8::1]:8082"),
            ("http://api:80", "http://api:80"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), address);
        }
        for wrong in [
            "",
            "ftp://a",
            "http://",
            "http://a/path",
            "http://user:password@a",
            "a b",
            "[127.0.0.1]",
        ] {
            assert!(wrong.parse::<Server>().is_err(), "{wrong:?}");
        }
    }
}
