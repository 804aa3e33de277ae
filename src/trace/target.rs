//! Where a packet comes from and goes to, as an operator writes it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use contrail_mesos_api::text::Quoted;

use crate::net::listeners::Transport;

/// The longest name of a container, task or service.
const MAX_NAME_BYTES: usize = 1024;

/// A text that is not an end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPoint {
    /// It is not an address, a name or a word.
    #[error("{0} is none of: the id of a container or task, an address, \"host\", \"outside\"")]
    Name(String),
    /// It has no port, or a wrong one.
    #[error(
        "{0} has no port from 1 to 65535; write it as 10.0.0.7:5432, [fd00::7]:53/udp or web.marathon:80"
    )]
    Port(String),
    /// It has another protocol.
    #[error("{0} has a protocol that cannot be traced; there are tcp and udp")]
    Protocol(String),
    /// It cannot be a destination.
    #[error("\"outside\" is no destination: give an address")]
    Outside,
}

/// Where a packet starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The id of a container or task, the beginning of one, or the name of a service.
    Named(String),
    /// An address.
    Address(IpAddr),
    /// This host.
    Host,
    /// Any address behind the host's default route.
    Outside,
}

impl FromStr for Origin {
    type Err = InvalidPoint;

    fn from_str(text: &str) -> Result<Self, InvalidPoint> {
        let address = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = address.parse() {
            return Ok(Self::Address(address));
        }
        match text {
            "host" => Ok(Self::Host),
            "outside" => Ok(Self::Outside),
            name if !(1..=MAX_NAME_BYTES).contains(&name.len())
                || name.chars().any(char::is_control) =>
            {
                Err(InvalidPoint::Name(quoted(text)))
            }
            name => Ok(Self::Named(name.to_owned())),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(formatter, "{}", Quoted(name.as_bytes())),
            Self::Address(address) => write!(formatter, "{address}"),
            Self::Host => formatter.write_str("host"),
            Self::Outside => formatter.write_str("outside"),
        }
    }
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The other end; never [`Origin::Outside`].
    pub end: Origin,
    /// The port.
    pub port: u16,
    /// The transport protocol.
    pub transport: Transport,
}

impl FromStr for Destination {
    type Err = InvalidPoint;

    fn from_str(text: &str) -> Result<Self, InvalidPoint> {
        let (end, transport) = match text.rsplit_once('/') {
            None => (text, Transport::Tcp),
            Some((end, "tcp")) => (end, Transport::Tcp),
            Some((end, "udp")) => (end, Transport::Udp),
            Some(_) => return Err(InvalidPoint::Protocol(quoted(text))),
        };
        let no_port = || InvalidPoint::Port(quoted(text));
        let (end, port) = end.rsplit_once(':').ok_or_else(no_port)?;
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_number && *port > 0);
        let port = port.ok_or_else(no_port)?;
        // Without brackets, the last part of an IPv6 address would be taken for the port.
        if end.contains(':') && !end.starts_with('[') {
            return Err(no_port());
        }
        match end.parse()? {
            Origin::Outside => Err(InvalidPoint::Outside),
            end => Ok(Self {
                end,
                port,
                transport,
            }),
        }
    }
}

fn quoted(text: &str) -> String {
    Quoted(text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_connections_are_read() {
        let named = |name: &str| Origin::Named(name.to_owned());
        for (text, origin) in [
            ("10.0.0.7", Origin::Address([10, 0, 0, 7].into())),
            ("fd00::7", Origin::Address("fd00::7".parse().unwrap())),
            ("[fd00::7]", Origin::Address("fd00::7".parse().unwrap())),
            ("host", Origin::Host),
            ("outside", Origin::Outside),
            ("web.1234-5678", named("web.1234-5678")),
        ] {
            assert_eq!(text.parse(), Ok(origin), "{text}");
        }
        for text in ["", "a\nb", &"x".repeat(2000)] {
            assert!(text.parse::<Origin>().is_err(), "{text:?}");
        }
        for (text, end, port, transport) in [
            ("10.0.0.7:80", "10.0.0.7", 80, Transport::Tcp),
            ("[fd00::7]:53/udp", "fd00::7", 53, Transport::Udp),
            ("host:22/tcp", "host", 22, Transport::Tcp),
            ("web.marathon:80", "web.marathon", 80, Transport::Tcp),
        ] {
            let end = end.parse().unwrap();
            let expected = Destination {
                end,
                port,
                transport,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "10.0.0.7",
            "fd00::7",
            "fd00::7:80",
            "a:0",
            "a:65536",
            "a:+1",
            "a:",
            ":80",
            "a:80/sctp",
            "outside:80",
            "a:b/tcp",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }
}
