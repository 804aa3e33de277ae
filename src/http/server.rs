//! The address of a server: scheme, host and port.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::{Authority, Scheme};

/// The address of a server that listens at `PORT` unless its address says otherwise: `host`,
/// `host:port`, or either after `http://` or `https://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server<const PORT: u16> {
    scheme: Scheme,
    authority: Authority,
}

/// Not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a server's address such as \"https://10.84.22.1:{port}\"")]
pub struct NotAServer {
    text: String,
    port: u16,
}

impl<const PORT: u16> FromStr for Server<PORT> {
    type Err = NotAServer;

    fn from_str(text: &str) -> Result<Self, NotAServer> {
        let wrong = || NotAServer {
            text: text.to_owned(),
            port: PORT,
        };
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

impl<const PORT: u16> Server<PORT> {
    /// The URI of a path, query included, on this server.
    pub fn uri(&self, path: &str) -> Result<Uri, hyper::http::Error> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
    }
}

impl<const PORT: u16> fmt::Display for Server<PORT> {
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
            assert_eq!(text.parse::<Server<8082>>().unwrap().to_string(), address);
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
            assert!(wrong.parse::<Server<8082>>().is_err(), "{wrong:?}");
        }
    }
}
