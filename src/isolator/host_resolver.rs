//! The host's resolver configuration, made usable for a container with a network namespace of its
//! own.
//!
//! A name server at a loopback address, such as the stub of systemd-resolved, is in the host's
//! namespace: a container does not reach it. The servers behind the stub are in a file of
//! systemd-resolved. Link-local servers are not reached either: their scope is an interface of the
//! host.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// The host's file.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The servers that the stub of systemd-resolved forwards to.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// What containers get in place of the host's `/etc/resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostResolver {
    /// The contents of their `/etc/resolv.conf`.
    pub contents: Vec<u8>,
    /// Why containers cannot resolve names, if they cannot.
    pub problem: Option<String>,
}

/// Reads the host's resolver configuration. Blocks on the file system.
pub fn read() -> io::Result<HostResolver> {
    read_from(Path::new(RESOLV_CONF), Path::new(SYSTEMD_RESOLV_CONF))
}

/// The lines of the host's file that say which domains names are looked up in; empty without such lines
/// or without the file. Blocks on the file system.
pub(super) fn search_lines() -> String {
    fs::read(RESOLV_CONF).map_or_else(|_| String::new(), |contents| search_lines_of(&contents))
}

fn search_lines_of(contents: &[u8]) -> String {
    let contents = String::from_utf8_lossy(contents);
    let is_search = |line: &&str| {
        let keyword = line.split_ascii_whitespace().next();
        matches!(keyword, Some("search" | "domain"))
    };
    let lines = contents.lines().filter(is_search);
    lines.fold(String::new(), |lines, line| lines + line + "\n")
}

fn read_from(host: &Path, systemd: &Path) -> io::Result<HostResolver> {
    let contents = fs::read(host)?;
    if servers(&contents).all(is_reachable) {
        return Ok(HostResolver {
            contents,
            problem: None,
        });
    }
    let reachable = without_unreachable(&contents);
    if servers(&reachable).next().is_some() {
        return Ok(HostResolver {
            contents: reachable,
            problem: None,
        });
    }
    if let Ok(upstream) = fs::read(systemd) {
        let upstream = without_unreachable(&upstream);
        if servers(&upstream).next().is_some() {
            return Ok(HostResolver {
                contents: upstream,
                problem: None,
            });
        }
    }
    Ok(HostResolver {
        contents: reachable,
        problem: Some(format!(
            "{} names only servers that containers do not reach, such as 127.0.0.53, and {} names no other ones: containers resolve no names; set nameservers in [dns] or [network.dns]",
            host.display(),
            systemd.display()
        )),
    })
}

/// The words after `nameserver` of each such line.
fn servers(contents: &[u8]) -> impl Iterator<Item = &[u8]> {
    contents.split(|byte| *byte == b'\n').filter_map(server)
}

fn server(line: &[u8]) -> Option<&[u8]> {
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    (words.next() == Some(b"nameserver")).then(|| words.next().unwrap_or_default())
}

fn is_reachable(server: &[u8]) -> bool {
    let text = String::from_utf8_lossy(server);
    // A scope follows the address.
    let address = text.split('%').next().unwrap_or_default();
    match address.parse::<IpAddr>() {
        Ok(address) => match address.to_canonical() {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !is_link_local(v6),
        },
        // Resolvers ignore it.
        Err(_) => true,
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// The lines without those of servers that containers do not reach.
fn without_unreachable(contents: &[u8]) -> Vec<u8> {
    contents
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| server(line).is_none_or(is_reachable))
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What containers get where the host and systemd-resolved have these files.
    fn resolver(host: &str, systemd: Option<&str>) -> HostResolver {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("host"), host).unwrap();
        if let Some(systemd) = systemd {
            fs::write(path("systemd"), systemd).unwrap();
        }
        read_from(&path("host"), &path("systemd")).unwrap()
    }

    #[test]
    fn search_lines_are_those_with_domains() {
        let host = b"# search no\ndomain a.example\nnameserver 192.0.2.53\noptions ndots:5\n\
                     \tsearch b.example c.example";
        assert_eq!(
            search_lines_of(host),
            "domain a.example\n\tsearch b.example c.example\n"
        );
        assert_eq!(search_lines_of(b""), "");
    }

    #[test]
    fn reachable_servers_are_copied_as_they_are() {
        for contents in [
            "",
            "search example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n",
            "; nameserver 127.0.0.1\nnameserver 192.0.2.53",
        ] {
            let resolver = resolver(contents, Some("nameserver 198.51.100.1\n"));
            assert_eq!(resolver.contents, contents.as_bytes());
            assert_eq!(resolver.problem, None);
        }
    }

    #[test]
    fn loopback_servers_are_replaced_by_the_real_ones() {
        let systemd = "nameserver 198.51.100.1\nnameserver fe80::1%eth0\nsearch corp.example\n";
        for server in [
            "127.0.0.53",
            "127.0.1.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "fe80::1%eth0",
        ] {
            let host = format!("options edns0\n\tnameserver\t{server} # stub\n");
            let resolver = resolver(&host, Some(systemd));
            assert_eq!(
                resolver.contents, b"nameserver 198.51.100.1\nsearch corp.example\n",
                "{server}"
            );
            assert_eq!(resolver.problem, None);
        }
    }

    #[test]
    fn loopback_server_beside_a_real_one_is_left_out() {
        let resolver = resolver(
            "nameserver 127.0.0.1\nnameserver 192.0.2.53\nsearch a\n",
            None,
        );
        assert_eq!(resolver.contents, b"nameserver 192.0.2.53\nsearch a\n");
        assert_eq!(resolver.problem, None);
    }

    #[test]
    fn host_without_a_real_server_is_a_problem() {
        for systemd in [None, Some("nameserver 127.0.0.1\n"), Some("search x\n")] {
            let resolver = resolver("search a\nnameserver 127.0.0.53\n", systemd);
            assert_eq!(resolver.contents, b"search a\n");
            let problem = resolver.problem.unwrap();
            assert!(problem.contains("set nameservers"), "{problem}");
        }
    }
}
