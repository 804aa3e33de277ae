//! Who may ask.
//!
//! Allowed are this host, its containers, the containers of the cluster's overlays, and what the configuration
//! adds. Everybody else is refused: an open resolver is a tool for attacks on others.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos::net::{addressing, links};
use contrail_mesos_api::cluster::Overlay;
use ipnet::IpNet;

use crate::cluster_state::ClusterState;

/// How old the addresses of this host may be when somebody unknown asks.
const MAX_AGE: Duration = Duration::from_millis(200);
/// The first word of the alias of bridges that the library made.
const PROGRAM: &str = "contrail-mesos";

/// What is decided about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    Refused,
    /// The addresses of this host must be read again first.
    Stale,
}

/// The addresses of this host and the subnets of its bridges.
#[derive(Debug)]
struct HostAddresses {
    own: HashSet<IpAddr>,
    bridges: Vec<IpNet>,
    read: Instant,
}

/// Who may ask.
#[derive(Debug)]
pub(crate) struct Access {
    /// What the configuration adds.
    allow: Vec<IpNet>,
    host: RwLock<Option<Arc<HostAddresses>>>,
    /// Held while the addresses are read.
    reading: Mutex<()>,
}

impl Access {
    pub(crate) fn new(allow: Vec<IpNet>) -> Self {
        Self {
            allow,
            host: RwLock::default(),
            reading: Mutex::default(),
        }
    }

    fn host(&self) -> Option<Arc<HostAddresses>> {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner);
        host.clone()
    }

    /// Whether a source may ask.
    pub(crate) fn decide(&self, source: IpAddr, state: Option<&ClusterState>) -> Decision {
        let source = source.to_canonical();
        let is_near = match source {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        };
        let host = self.host();
        let is_own = |host: &HostAddresses| {
            host.own.contains(&source) || host.bridges.iter().any(|net| net.contains(&source))
        };
        if is_near
            || host.as_deref().is_some_and(is_own)
            || self.allow.iter().any(|net| net.contains(&source))
            || state.is_some_and(|state| is_of_cluster(source, state))
        {
            return Decision::Allowed;
        }
        if host.is_some_and(|host| host.read.elapsed() < MAX_AGE) {
            Decision::Refused
        } else {
            Decision::Stale
        }
    }

    /// Reads the addresses of this host, unless somebody else has just done so. Blocks.
    pub(crate) fn refresh(&self) -> Result<(), NetlinkError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if self
            .host()
            .is_some_and(|host| host.read.elapsed() < MAX_AGE)
        {
            return Ok(());
        }
        let read = Instant::now();
        let mut socket = NetlinkSocket::route()?;
        let addresses = addressing::addresses(&mut socket)?;
        let bridges: HashSet<u32> = links::all(&mut socket)?
            .into_iter()
            .filter(|link| {
                let alias = link.alias.as_deref().unwrap_or_default();
                link.kind.as_deref() == Some("bridge") && alias.split(' ').next() == Some(PROGRAM)
            })
            .map(|link| link.index)
            .collect();
        let host = HostAddresses {
            own: addresses.iter().map(|(_, net)| net.addr()).collect(),
            bridges: addresses
                .iter()
                .filter(|(index, _)| bridges.contains(index))
                .map(|(_, net)| net.trunc())
                .collect(),
            read,
        };
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(host));
        Ok(())
    }
}

/// Whether an address is of a range of services or of an overlay.
fn is_of_cluster(source: IpAddr, state: &ClusterState) -> bool {
    let ranges = state.service_settings.iter();
    let mut ranges = ranges.flat_map(|settings| &settings.ranges);
    let mut overlays = state.overlays.values().flat_map(Overlay::subnets);
    ranges.any(|range| range.contains(&source)) || overlays.any(|net| net.contains(&source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster;

    #[test]
    fn only_this_host_its_networks_and_the_cluster_may_ask() {
        let access = Access::new(vec!["10.9.0.0/16".parse().unwrap()]);
        let state = cluster("3.1");
        let decide = |source: &str, state: Option<&ClusterState>| {
            access.decide(source.parse().unwrap(), state)
        };
        for source in [
            "127.0.0.1",
            "::1",
            "169.254.1.2",
            "fe80::1",
            "10.9.1.1",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(decide(source, None), Decision::Allowed, "{source}");
        }
        for source in ["9.0.2.7", "fd09:0:0:2::7"] {
            assert_eq!(decide(source, Some(&state)), Decision::Allowed, "{source}");
            assert_eq!(decide(source, None), Decision::Stale, "{source}");
        }
        // Nothing is known of this host yet.
        assert_eq!(decide("203.0.113.1", Some(&state)), Decision::Stale);
        access.refresh().unwrap();
        assert_eq!(decide("203.0.113.1", Some(&state)), Decision::Refused);
    }
}
