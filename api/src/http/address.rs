//! The address of a server: scheme, host, port, and the path prefix of its API behind a proxy.

use std::fmt;
use std::net::Ipv6Addr;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};

use crate::text::redact_value;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    scheme: Scheme,
    /// Always with a port.
    authority: Authority,
    /// Empty, or a path without a trailing slash.
    prefix: Box<str>,
}

/// A string that is not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not a server's address such as {example}")]
pub struct InvalidAddress {
    /// The string, without a password.
    address: String,
    example: String,
}

impl InvalidAddress {
    fn new(address: &str, example: impl Into<String>) -> Self {
        Self {
            address: redact_value(address).into_owned(),
            example: example.into(),
        }
    }
}

/// The ports of addresses without one.
#[derive(Clone, Copy, Debug)]
struct DefaultPorts {
    without_scheme: u16,
    http: u16,
    https: u16,
}

impl Address {
    /// Parses `host`, `host:port`, or a URL with a path. Without a scheme it is `http` and `port`
    /// is the default; a URL without a port has its scheme's.
    pub fn parse(text: &str, port: u16) -> Result<Self, InvalidAddress> {
        let ports = DefaultPorts {
            without_scheme: port,
            http: 80,
            https: 443,
        };
        Self::with_default_ports(text, ports).ok_or_else(|| {
            let example = r#""10.0.0.1", "leader:8080" or "https://proxy/service/marathon""#;
            InvalidAddress::new(text, example)
        })
    }

    /// Parses the address of a server whose API is at the root: `host` or `host:port`, either with
    /// or without `http://` or `https://`. `port` is the default with every scheme.
    pub fn parse_root(text: &str, port: u16) -> Result<Self, InvalidAddress> {
        let ports = DefaultPorts {
            without_scheme: port,
            http: port,
            https: port,
        };
        Self::with_default_ports(text, ports)
            .filter(|address| address.prefix.is_empty())
            .ok_or_else(|| InvalidAddress::new(text, format!("\"https://10.84.22.1:{port}\"")))
    }

    fn with_default_ports(text: &str, ports: DefaultPorts) -> Option<Self> {
        let (url, port) = if text.starts_with("https://") {
            (text.to_owned(), ports.https)
        } else if text.contains("://") {
            (text.to_owned(), ports.http)
        } else {
            (format!("http://{text}"), ports.without_scheme)
        };
        let uri: Uri = url.parse().ok()?;
        let scheme = uri
            .scheme()
            .filter(|&scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)?;
        let authority = uri.authority()?;
        let host = authority.host();
        // Brackets are for IPv6: mesos-manager's own default is the impossible `[127.0.0.1]`.
        let unbracketed = host.trim_matches(['[', ']']);
        let has_invalid_brackets = host != unbracketed && unbracketed.parse::<Ipv6Addr>().is_err();
        // A password in an address would appear in messages.
        let has_user = authority.as_str().contains('@');
        if has_user || host.is_empty() || has_invalid_brackets || uri.query().is_some() {
            return None;
        }
        let authority = match authority.port_u16() {
            // Nothing listens there.
            Some(0) => return None,
            Some(_) => authority.clone(),
            None => format!("{host}:{port}").parse().ok()?,
        };
        Some(Self {
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

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Whether both are the same server, whatever the path.
    #[must_use]
    pub fn is_at(&self, other: &Self) -> bool {
        // Scheme and authority compare case-insensitively.
        self.scheme == other.scheme && self.authority == other.authority
    }

    /// The same server with another path prefix.
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
    fn address_should_parse_every_form() {
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
        for wrong in [
            "",
            "ftp://a",
            "http://",
            "a b",
            "[10.0.0.1]",
            "http://a/?q",
            "a:0",
        ] {
            assert!(Address::parse(wrong, 8080).is_err(), "{wrong:?}");
        }
        let secret = Address::parse("http://user:password@a", 8080).unwrap_err();
        assert!(!secret.to_string().contains("password"), "{secret}");
    }

    #[test]
    fn root_address_should_have_one_port_and_no_path() {
        for (text, address) in [
            ("10.84.22.1", "http://10.84.22.1:8082"),
            ("api.example", "http://api.example:8082"),
            ("api.example:9100", "http://api.example:9100"),
            ("https://[2001:db8::1]/", "https://[2001:db8::1]:8082"),
            ("http://api:80", "http://api:80"),
        ] {
            assert_eq!(
                Address::parse_root(text, 8082).unwrap().to_string(),
                address
            );
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
            let error = Address::parse_root(wrong, 8082).unwrap_err().to_string();
            assert!(!error.contains("password"), "{error}");
        }
    }
}
