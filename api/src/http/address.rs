//! The address of a server: scheme, host, port, and the path under which a proxy has its API.

use std::fmt;
use std::net::Ipv6Addr;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    scheme: Scheme,
    /// Always with a port.
    authority: Authority,
    /// Empty, or a path without a slash at its end.
    prefix: Box<str>,
}

/// Not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a server's address such as \"10.0.0.1\", \"leader:8080\" or \"https://proxy/service/marathon\""
)]
pub struct NotAnAddress(pub(super) String);

impl NotAnAddress {
    /// What is refused may hold a password.
    pub(super) fn of(text: &str) -> Self {
        Self(text.rsplit('@').next().unwrap_or_default().to_owned())
    }
}

/// Where servers listen whose address does not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// Where no scheme is named either.
    bare: u16,
    http: u16,
    https: u16,
}

impl Ports {
    pub(super) fn all(port: u16) -> Self {
        Self {
            bare: port,
            http: port,
            https: port,
        }
    }
}

impl Address {
    /// Reads `host`, `host:port`, or a URL with a path. Where no scheme is named it is `http`,
    /// and `port` is where such servers listen; a URL without a port has its scheme's.
    pub fn parse(text: &str, port: u16) -> Result<Self, NotAnAddress> {
        let ports = Ports {
            bare: port,
            http: 80,
            https: 443,
        };
        Self::read(text, ports)
    }

    pub(super) fn read(text: &str, ports: Ports) -> Result<Self, NotAnAddress> {
        let wrong = || NotAnAddress::of(text);
        let (whole, port) = if text.starts_with("https://") {
            (text.to_owned(), ports.https)
        } else if text.contains("://") {
            (text.to_owned(), ports.http)
        } else {
            (format!("http://{text}"), ports.bare)
        };
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        let scheme = uri
            .scheme()
            .filter(|&scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
            .ok_or_else(wrong)?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host();
        // Brackets are for IPv6: mesos-manager's own default is the impossible `[127.0.0.1]`.
        let bracketed = host.trim_matches(['[', ']']);
        // A password in an address would end up in messages.
        if authority.as_str().contains('@')
            || host.is_empty()
            || (host != bracketed && bracketed.parse::<Ipv6Addr>().is_err())
            || uri.query().is_some()
        {
            return Err(wrong());
        }
        let authority = match authority.port_u16() {
            Some(_) => authority.clone(),
            None => format!("{host}:{port}").parse().map_err(|_| wrong())?,
        };
        Ok(Self {
            scheme: scheme.clone(),
            authority,
            prefix: uri.path().trim_end_matches('/').into(),
        })
    }

    /// The URI of a path of the API, query included.
    pub fn uri(&self, path: &str) -> Result<Uri, hyper::http::Error> {
        let path = PathAndQuery::try_from(format!("{}{path}", self.prefix))?;
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
    }

    /// Whether what is said there is encrypted.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Whether both are the same server, whatever the path.
    #[must_use]
    pub fn is_at(&self, other: &Self) -> bool {
        // Both compare without regard to case.
        self.scheme == other.scheme && self.authority == other.authority
    }

    /// The same server with another path before its API's.
    pub(super) fn with_prefix(&self, prefix: &str) -> Self {
        Self {
            prefix: prefix.trim_end_matches('/').into(),
            ..self.clone()
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn scheme(&self) -> &str {
        self.scheme.as_str()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}://{}{}",
            self.scheme, self.authority, self.prefix
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for (text, address, uri) in [
            (
                "10.0.0.1",
                "http://10.0.0.1:8080",
                "http://10.0.0.1:8080/v2/x?y",
            ),
            ("leader:80", "http://leader:80", "http://leader:80/v2/x?y"),
            (
                "https://proxy/service/marathon/",
                "https://proxy:443/service/marathon",
                "https://proxy:443/service/marathon/v2/x?y",
            ),
            ("http://proxy/", "http://proxy:80", "http://proxy:80/v2/x?y"),
            (
                "[2001:db8::1]",
                "http://[2001:db8::1]:8080",
                "http://[2001:db8::1]:8080/v2/x?y",
            ),
        ] {
            let read = Address::parse(text, 8080).unwrap();
            assert_eq!(read.to_string(), address);
            assert_eq!(read.uri("/v2/x?y").unwrap().to_string(), uri);
        }
        for wrong in ["", "ftp://a", "http://", "a b", "[10.0.0.1]", "http://a/?q"] {
            assert!(Address::parse(wrong, 8080).is_err(), "{wrong:?}");
        }
        let secret = Address::parse("http://user:password@a", 8080).unwrap_err();
        assert!(!secret.to_string().contains("password"), "{secret}");
    }
}
