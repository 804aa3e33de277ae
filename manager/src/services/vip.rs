//! The value of a virtual-IP label. A label counts if its key begins with `VIP` or `vip`; what follows is
//! ignored, so `VIP_0`, `VIP_1` and `VIP` are three virtual IPs of one port.
//!
//! | value | meaning |
//! |---|---|
//! | `/my-service:80`, `my-service:80` | the name `my-service` of the framework, at port 80 |
//! | `10.0.0.1:80` | an IP VIP |
//! | `fd01:c::5:80`, `[fd01:c::5]:80` | an IPv6 VIP; the last colon splits. DC/OS knows the first form only |
//! | `my-service`, `/my-service`, `fd01:c::5` | no port: no virtual IP, but a problem |
//! | `my-service:0`, `my-service:99999` | no such port: no virtual IP, but a problem |
//! | `tcp://my-service:80` | the name `tcpmy-service`, as on DC/OS: the protocol is that of the port |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name;

/// What a label asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VipRequest {
    pub target: VipTarget,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VipTarget {
    /// In its canonical form.
    Address(IpAddr),
    Name {
        /// DNS labels, without those of the framework.
        labels: String,
        /// As the framework wrote it, without slashes in front: `/web` and `web` are the same.
        written: String,
    },
}

/// Why a label is no virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum VipError {
    #[error("it has no port, so there is no virtual IP; write one behind a colon, such as /web:80")]
    NoPort,
    #[error("what follows the last colon is no port; write 1 to 65535, such as /web:80")]
    InvalidPort,
    #[error("its name has no letter or digit of ASCII, so no DNS name can be made of it")]
    EmptyName,
}

pub(super) fn parse(value: &str) -> Result<VipRequest, VipError> {
    let value = value.trim();
    let (target, port) = value.rsplit_once(':').ok_or(VipError::NoPort)?;
    if value.parse::<Ipv6Addr>().is_ok() && !has_port_behind_address(target) {
        return Err(VipError::NoPort);
    }
    let is_decimal = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| is_decimal && *port > 0);
    let port = port.ok_or(VipError::InvalidPort)?;
    let in_brackets = target
        .strip_prefix('[')
        .and_then(|target| target.strip_suffix(']'))
        .and_then(|target| target.parse::<Ipv6Addr>().ok());
    let address = in_brackets
        .map(IpAddr::from)
        .or_else(|| target.parse().ok());
    let target = if let Some(address) = address {
        VipTarget::Address(address.to_canonical())
    } else {
        let labels = name::labels(target);
        if labels.is_empty() {
            return Err(VipError::EmptyName);
        }
        let written = target.trim_start_matches('/').to_owned();
        VipTarget::Name { labels, written }
    };
    Ok(VipRequest { target, port })
}

/// Whether an IPv6 address with something behind is one without it: then this is the port. Of
/// `fd01:c::5:80`, which is an address as a whole, `fd01:c::5` is one, too.
fn has_port_behind_address(target: &str) -> bool {
    target.parse::<Ipv6Addr>().is_ok()
}

/// Whether no service can have the address, for any framework.
pub(super) fn is_special(address: IpAddr) -> bool {
    let is_special_v4 = |address: Ipv4Addr| {
        address.is_broadcast() || address.is_link_local() || address.octets()[0] == 0
    };
    address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || match address {
            IpAddr::V4(address) => is_special_v4(address),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::parser_testing::{assert_linear, for_damaged_input};

    use super::*;

    #[test]
    fn values_are_names_or_addresses_with_port() {
        let address = |text: &str| VipTarget::Address(text.parse().unwrap());
        let name = |labels: &str, written: &str| VipTarget::Name {
            labels: labels.to_owned(),
            written: written.to_owned(),
        };
        for (value, expected) in [
            ("10.0.0.1:80", Ok((address("10.0.0.1"), 80))),
            ("fd01:c::5:80", Ok((address("fd01:c::5"), 80))),
            ("[fd01:c::5]:80", Ok((address("fd01:c::5"), 80))),
            ("::ffff:10.0.0.1:80", Ok((address("10.0.0.1"), 80))),
            ("/my-service:80", Ok((name("my-service", "my-service"), 80))),
            ("my-service:80", Ok((name("my-service", "my-service"), 80))),
            (" /web:65535 ", Ok((name("web", "web"), 65535))),
            ("/a/b:80", Ok((name("ab", "a/b"), 80))),
            ("/a.b:80", Ok((name("a.b", "a.b"), 80))),
            ("tcp://web:80", Ok((name("tcpweb", "tcp://web"), 80))),
            ("[web]:80", Ok((name("web", "[web]"), 80))),
            ("a:b:80", Ok((name("ab", "a:b"), 80))),
            ("my-service", Err(VipError::NoPort)),
            ("/my-service", Err(VipError::NoPort)),
            ("10.0.0.1", Err(VipError::NoPort)),
            ("", Err(VipError::NoPort)),
            ("fd01:c::5", Err(VipError::NoPort)),
            ("/web:", Err(VipError::InvalidPort)),
            ("/web:0", Err(VipError::InvalidPort)),
            ("/web:65536", Err(VipError::InvalidPort)),
            ("/web:+80", Err(VipError::InvalidPort)),
            ("/web: 80", Err(VipError::InvalidPort)),
            ("/web:http", Err(VipError::InvalidPort)),
            ("[fd01:c::5]", Err(VipError::InvalidPort)),
            (":80", Err(VipError::EmptyName)),
            ("/:80", Err(VipError::EmptyName)),
            ("日本:80", Err(VipError::EmptyName)),
        ] {
            let parsed = parse(value).map(|request| (request.target, request.port));
            assert_eq!(parsed, expected, "{value:?}");
        }
    }

    #[test]
    fn special_addresses_are_of_no_service() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(is_special(text.parse().unwrap()), "{text}");
        }
        for text in [
            "10.0.0.1",
            "8.8.8.8",
            "198.18.0.1",
            "fd01:c::5",
            "2001:db8::1",
        ] {
            assert!(!is_special(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn damaged_input_never_panics() {
        for valid in ["/my-service.group:80", "[fd01:c::5]:80", "10.0.0.1:80"] {
            for_damaged_input(valid.as_bytes(), |input| {
                let text = String::from_utf8_lossy(input);
                if let Ok(request) = parse(&text) {
                    assert!(request.port > 0);
                }
            });
        }
    }

    #[test]
    fn long_values_take_linear_time() {
        for text in [":", "/", "a:", "[", "fd01:"] {
            assert_linear(text, 100_000, |size| drop(parse(&text.repeat(size))));
        }
    }
}
