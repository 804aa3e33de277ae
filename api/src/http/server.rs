//! The address of a server that has no path before its API's: scheme, host and port.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

use super::address::{Address, NotAnAddress, Ports};

/// The address of a server that listens at `PORT` unless its address says otherwise: `host`,
/// `host:port`, or either after `http://` or `https://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server<const PORT: u16>(Address);

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
        let wrong = |NotAnAddress(text)| NotAServer { text, port: PORT };
        let address = Address::read(text, Ports::all(PORT)).map_err(wrong)?;
        if address.prefix().is_empty() {
            Ok(Self(address))
        } else {
            Err(wrong(NotAnAddress::of(text)))
        }
    }
}

impl<const PORT: u16> Server<PORT> {
    /// The URI of a path, query included, on this server.
    pub fn uri(&self, path: &str) -> Result<Uri, hyper::http::Error> {
        self.0.uri(path)
    }
}

impl<const PORT: u16> fmt::Display for Server<PORT> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
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
            let error = wrong.parse::<Server<8082>>().unwrap_err().to_string();
            assert!(!error.contains("password"), "{error}");
        }
    }
}
