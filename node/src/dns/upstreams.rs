//! The servers that answer what this server does not answer itself.
//!
//! Invariants: this server never asks itself. A line of the host's file that makes no sense is ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use contrail_mesos::config::{DNS_PORT, DnsServer};
use contrail_mesos_api::files::read_regular_or_linked_file;
use hickory_proto::rr::Name;
use nix::net::if_::if_nametoindex;

/// The host's file, and the one that has the servers behind the stub of systemd-resolved.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// The most servers of a file that are used.
const MAX_SERVERS: usize = 8;
/// The most failures in a row of a server that is preferred to others.
const MAX_FAILURES: u32 = 1;
/// How long a server that failed is asked after the others.
const AVOIDED: Duration = Duration::from_secs(10);
/// How long after an answer no failure counts: the question was at fault, such as one for a domain whose
/// own servers are dead.
const ANSWER_HOLDS: Duration = Duration::from_secs(2);

/// Where queries go.
#[derive(Debug)]
pub(crate) struct Upstreams {
    configured: Option<Vec<SocketAddr>>,
    domains: BTreeMap<String, Vec<SocketAddr>>,
    files: Vec<PathBuf>,
    current: RwLock<Arc<HostServers>>,
    /// Where this server listens.
    own: RwLock<BTreeSet<SocketAddr>>,
    health: Mutex<BTreeMap<SocketAddr, Health>>,
}

/// What the host's files said.
#[derive(Debug, Default, PartialEq, Eq)]
struct HostServers {
    /// Of each file.
    servers: Vec<Vec<SocketAddr>>,
}

#[derive(Clone, Copy, Debug)]
struct Health {
    failures: u32,
    /// When it failed or answered last.
    last: Instant,
    answered: Option<Instant>,
}

impl Upstreams {
    pub(crate) fn new(config: &DnsServer) -> Self {
        Self::with_files(config, RESOLV_CONF.map(PathBuf::from).to_vec())
    }

    pub(crate) fn with_files(config: &DnsServer, files: Vec<PathBuf>) -> Self {
        Self {
            configured: config.upstreams.clone(),
            domains: config.forward.clone(),
            files,
            current: RwLock::default(),
            own: RwLock::default(),
            health: Mutex::default(),
        }
    }

    /// Reads the host's files again. Blocks on the file system.
    pub(crate) fn reload(&self) {
        if self.configured.is_some() {
            return;
        }
        let servers = self.files.iter().map(|path| match read_servers(path) {
            Ok(servers) => servers,
            Err(error) => {
                log::debug!("cannot read {}: {error}", path.display());
                vec![]
            }
        });
        let read = HostServers {
            servers: servers.collect(),
        };
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if **current != read {
            *current = Arc::new(read);
        }
    }

    /// Where this server listens: these are never asked.
    pub(crate) fn set_own(&self, own: BTreeSet<SocketAddr>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// The servers for a name, in the order in which they are asked.
    pub(crate) fn for_name(&self, name: &Name) -> Vec<SocketAddr> {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        let without_own = |servers: &[SocketAddr]| -> Vec<SocketAddr> {
            let others = servers.iter().filter(|server| !is_own(&own, server));
            others.copied().collect()
        };
        let mut servers = match (self.of_domain(name), &self.configured) {
            (Some(servers), _) | (None, Some(servers)) => without_own(servers),
            (None, None) => {
                let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
                let mut lists = current.servers.iter().map(|servers| without_own(servers));
                // A host that asks this server has its real servers elsewhere.
                lists
                    .find(|servers| !servers.is_empty())
                    .unwrap_or_default()
            }
        };
        drop(own);
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        servers.sort_by_key(|server| health.get(server).is_some_and(Health::is_bad));
        servers
    }

    /// Whether none of them has answered lately.
    pub(crate) fn are_all_bad(&self, servers: &[SocketAddr]) -> bool {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        servers
            .iter()
            .all(|server| health.get(server).is_some_and(Health::is_bad))
    }

    /// Notes that a server has answered.
    pub(crate) fn answered(&self, server: SocketAddr) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        health.insert(
            server,
            Health {
                failures: 0,
                last: now,
                answered: Some(now),
            },
        );
    }

    /// Notes that a server has not answered, or too late.
    pub(crate) fn failed(&self, server: SocketAddr) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Servers of earlier files do not stay for ever.
        health.retain(|_, health| health.last.elapsed() < AVOIDED);
        let health = health.entry(server).or_insert(Health {
            failures: 0,
            last: now,
            answered: None,
        });
        let answered = health.answered.map(|answered| answered.elapsed());
        if answered.is_some_and(|elapsed| elapsed < ANSWER_HOLDS) {
            return;
        }
        health.failures = health.failures.saturating_add(1);
        health.last = now;
    }

    fn of_domain(&self, name: &Name) -> Option<&Vec<SocketAddr>> {
        if self.domains.is_empty() {
            return None;
        }
        let labels: Vec<_> = name
            .iter()
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        // The longest one first.
        (0..labels.len()).find_map(|start| self.domains.get(&labels[start..].join(".")))
    }
}

impl Health {
    fn is_bad(&self) -> bool {
        self.failures > MAX_FAILURES && self.last.elapsed() < AVOIDED
    }
}

fn is_own(own: &BTreeSet<SocketAddr>, server: &SocketAddr) -> bool {
    own.iter()
        .any(|own| own.port() == server.port() && own.ip() == server.ip().to_canonical())
}

fn read_servers(path: &Path) -> io::Result<Vec<SocketAddr>> {
    read_regular_or_linked_file(path).map(|contents| servers(&contents))
}

/// The name servers of a `resolv.conf`.
fn servers(contents: &[u8]) -> Vec<SocketAddr> {
    let contents = String::from_utf8_lossy(contents);
    let mut servers = vec![];
    for line in contents.lines() {
        let mut words = line.split_ascii_whitespace();
        let server = match (words.next(), words.next()) {
            (Some("nameserver"), Some(word)) => server(word),
            _ => None,
        };
        if let Some(server) = server
            && servers.len() < MAX_SERVERS
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

fn server(word: &str) -> Option<SocketAddr> {
    let (address, zone) = match word.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().ok()?;
    if address.is_unspecified() || address.is_multicast() {
        return None;
    }
    match (address, zone) {
        (IpAddr::V6(v6), Some(zone)) => {
            let index = zone.parse().ok().or_else(|| if_nametoindex(zone).ok())?;
            Some(SocketAddrV6::new(v6, DNS_PORT, 0, index).into())
        }
        (IpAddr::V4(_), Some(_)) => None,
        (address, None) => Some(SocketAddr::new(address, DNS_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use contrail_mesos_api::parser_testing::{assert_linear, for_damaged_input};

    use super::*;

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn lines_that_make_no_sense_are_ignored() {
        let file = b"# nameserver 192.0.2.1\nnameserver 192.0.2.2 # first\nnameserver\n\
                     nameserver host\nnameserver 192.0.2.2\noptions frobnicate:7 edns0\n\
                     \tnameserver\t2001:db8::2\nnameserver fe80::1%lo\nnameserver fe80::2%missing\n\
                     nameserver 0.0.0.0\nnameserver 192.0.2.3%lo\nnameserver \xff\n\
                     nameserver fe80::3%7\nsearch nameserver 192.0.2.9\n";
        let found = servers(file);
        let expected = [
            "192.0.2.2:53".to_owned(),
            "[2001:db8::2]:53".to_owned(),
            format!("[fe80::1%{}]:53", if_nametoindex("lo").unwrap()),
            "[fe80::3%7]:53".to_owned(),
        ];
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn damaged_input_never_panics() {
        for_damaged_input(b"nameserver 192.0.2.2\nnameserver fe80::1%lo\n", |bytes| {
            assert!(servers(bytes).len() <= MAX_SERVERS);
        });
    }

    #[test]
    fn reading_is_linear_in_the_number_of_lines() {
        assert_linear("name servers", 5_000, |lines| {
            let line = |line| format!("nameserver 10.0.{}.{}", line / 256 % 256, line % 256);
            let file = (0..lines).map(line).collect::<Vec<_>>().join("\n");
            servers(file.as_bytes());
        });
    }

    #[test]
    fn longest_domain_wins_and_the_rest_goes_to_the_hosts_servers() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        let config = DnsServer {
            forward: [
                ("example".to_owned(), addresses(["10.0.0.1:53"])),
                ("corp.example".to_owned(), addresses(["10.0.0.2:53"])),
            ]
            .into(),
            ..DnsServer::default()
        };
        let upstreams = Upstreams::with_files(&config, vec![file.clone()]);
        let servers = |name: &str| upstreams.for_name(&Name::from_str(name).unwrap());
        assert_eq!(servers("a.Corp.Example."), addresses(["10.0.0.2:53"]));
        assert_eq!(servers("corp.example."), addresses(["10.0.0.2:53"]));
        assert_eq!(servers("acorp.example."), addresses(["10.0.0.1:53"]));
        assert_eq!(servers("example.com."), []);
        std::fs::write(&file, "nameserver 192.0.2.2\n").unwrap();
        upstreams.reload();
        assert_eq!(servers("example.com."), addresses(["192.0.2.2:53"]));
        std::fs::write(&file, "nameserver 192.0.2.3\n").unwrap();
        upstreams.reload();
        assert_eq!(servers("."), addresses(["192.0.2.3:53"]));
    }

    #[test]
    fn own_addresses_are_never_asked() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["host", "systemd"].map(|name| directory.path().join(name));
        std::fs::write(&paths[0], "nameserver 198.18.0.1\n").unwrap();
        std::fs::write(&paths[1], "nameserver 198.18.0.1\nnameserver 192.0.2.2\n").unwrap();
        let upstreams = Upstreams::with_files(&DnsServer::default(), paths.to_vec());
        upstreams.reload();
        upstreams.set_own(addresses(["198.18.0.1:53"]).into_iter().collect());
        assert_eq!(
            upstreams.for_name(&Name::root()),
            addresses(["192.0.2.2:53"])
        );
    }

    #[test]
    fn server_that_fails_is_asked_last() {
        let config = DnsServer {
            upstreams: Some(addresses(["192.0.2.2:53", "192.0.2.3:53"])),
            ..DnsServer::default()
        };
        let upstreams = Upstreams::new(&config);
        let [first, second] = addresses(["192.0.2.2:53", "192.0.2.3:53"])[..] else {
            unreachable!("there are two");
        };
        upstreams.failed(first);
        assert_eq!(upstreams.for_name(&Name::root()), [first, second]);
        upstreams.failed(first);
        assert_eq!(upstreams.for_name(&Name::root()), [second, first]);
        assert!(!upstreams.are_all_bad(&[first, second]));
        upstreams.answered(first);
        assert_eq!(upstreams.for_name(&Name::root()), [first, second]);
        // What it does not answer while it answers other questions is no fault of its own.
        upstreams.failed(first);
        upstreams.failed(first);
        assert_eq!(upstreams.for_name(&Name::root()), [first, second]);
    }
}
