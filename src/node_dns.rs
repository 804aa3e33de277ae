//! Where the DNS server of the node daemon listens: the file `node/dns.json` of the state directory.
//!
//! Invariants: the daemon is the only writer, and replaces the file as a whole. It has only addresses
//! at which the server listens, and stays while the daemon is stopped for a restart. Containers of bridges and
//! overlays that the library launches get these name servers if the configuration names none.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use contrail_mesos_api::files::read_regular_file;
use serde::{Deserialize, Serialize};

use crate::node_state::replace_file;

/// The version of the file's layout.
const LAYOUT: u32 = 1;
/// Resolvers use no more name servers.
const MAX_NAMESERVERS: usize = 3;

/// The addresses of the DNS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDns {
    /// The version of the layout.
    layout: u32,
    /// The addresses, in order of preference; all at the port of DNS.
    pub addresses: Vec<IpAddr>,
}

impl NodeDns {
    /// A server at these addresses.
    #[must_use]
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Self {
            layout: LAYOUT,
            addresses,
        }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("node").join("dns.json")
    }

    /// Reads the file; none if there is none, or if it is damaged or of another version. Blocks on
    /// the file system.
    #[must_use]
    pub fn read(state_dir: &Path) -> Option<Self> {
        let bytes = read_regular_file(&Self::path(state_dir)).ok()?;
        let read: Self = serde_json::from_slice(&bytes).ok()?;
        (read.layout == LAYOUT).then_some(read)
    }

    /// Replaces the file, if it differs. Returns whether it did. Blocks on the file system.
    pub fn write(&self, state_dir: &Path) -> io::Result<bool> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        replace_file(&Self::path(state_dir), &bytes)
    }

    /// Removes the file. Returns whether there was one. Blocks on the file system.
    pub fn remove(state_dir: &Path) -> io::Result<bool> {
        match std::fs::remove_file(Self::path(state_dir)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The name servers of a container with these addresses: those of its address families.
    #[must_use]
    pub fn nameservers(&self, container: &[IpAddr]) -> Vec<IpAddr> {
        let is_reached = |server: &&IpAddr| {
            container
                .iter()
                .any(|address| address.is_ipv4() == server.is_ipv4())
        };
        let reached = self.addresses.iter().filter(is_reached);
        reached.take(MAX_NAMESERVERS).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn file_is_written_read_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(NodeDns::read(directory), None);
        let dns = NodeDns::new(addresses(["198.18.0.1", "fd4a:9c1e:57b2::1"]));
        assert!(dns.write(directory).unwrap());
        assert!(!dns.write(directory).unwrap(), "nothing differs");
        assert_eq!(NodeDns::read(directory), Some(dns));
        for damaged in ["", "{", "[]", "{\"layout\": 2, \"addresses\": []}"] {
            std::fs::write(NodeDns::path(directory), damaged).unwrap();
            assert_eq!(NodeDns::read(directory), None, "{damaged}");
        }
        assert!(NodeDns::remove(directory).unwrap());
        assert!(!NodeDns::remove(directory).unwrap());
    }

    #[test]
    fn nameservers_are_those_of_the_containers_families() {
        let dns = NodeDns::new(addresses(["198.18.0.1", "fd00::1"]));
        let of = |container: &[IpAddr]| dns.nameservers(container);
        assert_eq!(of(&addresses(["10.0.0.5"])), addresses(["198.18.0.1"]));
        assert_eq!(of(&addresses(["fd01::5"])), addresses(["fd00::1"]));
        let both = addresses(["10.0.0.5", "fd01::5"]);
        assert_eq!(of(&both), addresses(["198.18.0.1", "fd00::1"]));
        assert_eq!(of(&[]), [] as [IpAddr; 0]);
    }
}
