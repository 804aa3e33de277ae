//! The subsystem `node-state`: what the library needs at a launch, written to the file that
//! [`NodeState`] describes.
//!
//! It keeps the [blocks](crate::blocks) of overlays that lend them, because a block is withdrawn by this
//! file.
//!
//! Invariants: the file changes only if something else than the revision does. An overlay on which
//! nothing can be launched is in it, with the reason.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Instant;

use contrail_mesos::node_state::{LocalOverlay, NodeState};
use contrail_mesos_api::cluster::{Node, Overlay, halves};
use contrail_mesos_api::text::Quoted;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;

use crate::blocks::{BlockKeeper, BlockReports, BlocksByOverlay};
use crate::cluster_state::ClusterState;
use crate::subsystem::{BoxError, Change, Mode, Outcome, Subsystem};
use crate::uplink::{self, Uplink};

/// The kernel disables IPv6 on an interface with a lower MTU.
const MIN_IPV6_MTU: u32 = 1280;
/// The lowest MTU that an IPv4 network may have.
const MIN_IPV4_MTU: u32 = 576;
/// The MTU of Ethernet, for as long as that of the uplink is not known.
const ETHERNET_MTU: u32 = 1500;

/// Writes the file.
#[derive(Debug)]
pub struct LocalStateSubsystem {
    state_dir: PathBuf,
    blocks: BlockKeeper,
}

impl LocalStateSubsystem {
    /// The file of this state directory. An error says that its leases cannot be watched.
    pub fn new(state_dir: PathBuf) -> Result<Self, Errno> {
        let blocks = BlockKeeper::new(&state_dir)?;
        Ok(Self { state_dir, blocks })
    }
}

impl Subsystem for LocalStateSubsystem {
    fn name(&self) -> &'static str {
        "node-state"
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        let uplink = match cluster.own_node() {
            Some(node) => uplink::of_this_host(node.address)?,
            None => None,
        };
        let (blocks, block_problems) = self.blocks.plan(cluster, mode, Instant::now())?;
        let state = state_with_blocks(cluster, uplink.as_ref(), Some(&blocks));
        let mut outcome = Outcome {
            changes: vec![],
            problems: problems(cluster, &state),
        };
        outcome.problems.extend(block_problems);
        let present = NodeState::read(&self.state_dir).ok();
        if present
            .as_ref()
            .is_some_and(|present| is_same(present, &state))
        {
            if mode == Mode::Apply {
                outcome.problems.extend(self.blocks.conclude(cluster));
            }
            return Ok(outcome);
        }
        if mode == Mode::Apply {
            state.write(&self.state_dir).map_err(|error| {
                let path = NodeState::path(&self.state_dir);
                format!(
                    "cannot write {}: {error}; launches on overlays go on with what it has",
                    path.display()
                )
            })?;
            outcome.problems.extend(self.blocks.conclude(cluster));
        }
        outcome.changes = describe(present.as_ref(), &state);
        Ok(outcome)
    }

    fn local_generation(&self) -> u64 {
        self.blocks.generation()
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        Some(self.blocks.descriptor())
    }

    fn receive(&mut self) -> bool {
        self.blocks.receive()
    }

    fn blocks(&self) -> Option<BlockReports> {
        Some(self.blocks.reports())
    }
}

/// Whether both are the same but for the revision.
fn is_same(present: &NodeState, state: &NodeState) -> bool {
    let mut state = state.clone();
    state.revision = present.revision;
    *present == state
}

/// What differs, an overlay at a time.
fn describe(present: Option<&NodeState>, state: &NodeState) -> Vec<Change> {
    let before = present.map_or(&[][..], |present| &present.overlays);
    let name = |overlay: &LocalOverlay| Quoted(overlay.name.as_bytes()).to_string();
    let differing = state
        .overlays
        .iter()
        .filter(|overlay| !before.contains(overlay))
        .map(|overlay| {
            let subnets: Vec<_> = overlay.subnets().map(|subnet| subnet.to_string()).collect();
            let mtu = overlay.mtu;
            Change(match &overlay.problem {
                None => format!(
                    "let containers be launched on overlay {} with subnet {}, MTU {mtu}",
                    name(overlay),
                    subnets.join(" and ")
                ),
                Some(problem) => format!(
                    "let no container be launched on overlay {}: {problem}",
                    name(overlay)
                ),
            })
        });
    let removed = before
        .iter()
        .filter(|overlay| state.overlay(&overlay.name).is_none())
        .map(|overlay| Change(format!("forget overlay {}", name(overlay))));
    let mut changes: Vec<_> = differing.chain(removed).collect();
    if changes.is_empty() {
        changes.push(Change(
            "write the subnets of all overlays, and the security groups".to_owned(),
        ));
    }
    changes
}

/// What an operator has to know: an overlay that is disabled is so on purpose.
fn problems(cluster: &ClusterState, state: &NodeState) -> Vec<String> {
    let is_enabled = |overlay: &LocalOverlay| {
        cluster
            .overlays
            .get(&overlay.name)
            .is_some_and(|overlay| overlay.enabled)
    };
    let overlays = state.overlays.iter().filter(|overlay| is_enabled(overlay));
    overlays
        .filter_map(|overlay| {
            let name = Quoted(overlay.name.as_bytes());
            let problem = overlay.problem.as_ref()?;
            Some(format!("overlay {name}: {problem}"))
        })
        .collect()
}

/// What the library needs to know, with all blocks that this host has. `uplink` is the interface with
/// this node's address.
#[must_use]
pub fn local_state(cluster: &ClusterState, uplink: Option<&Uplink>) -> NodeState {
    state_with_blocks(cluster, uplink, None)
}

/// As [`local_state`], with the blocks that containers get addresses of.
fn state_with_blocks(
    cluster: &ClusterState,
    uplink: Option<&Uplink>,
    blocks: Option<&BlocksByOverlay>,
) -> NodeState {
    let own = cluster.own_node();
    let overlays = cluster
        .overlays
        .values()
        .map(|overlay| {
            let lendable = blocks.and_then(|blocks| blocks.get(&overlay.name));
            let lendable = lendable.map(|blocks| blocks.lendable.as_slice());
            local_overlay(overlay, own, uplink, lendable)
        })
        .collect();
    let overlay_subnets = cluster.overlays.values().flat_map(Overlay::subnets);
    let underlay = cluster.underlay.iter();
    let endpoints = underlay.flat_map(|underlay| {
        let v4 = std::iter::once(IpNet::V4(underlay.vtep_subnet));
        v4.chain(underlay.vtep_subnet6.map(IpNet::V6))
    });
    let subnets: BTreeSet<IpNet> = overlay_subnets.chain(endpoints).collect();
    let mut state = NodeState::new(
        cluster.node.clone(),
        cluster.revision,
        overlays,
        subnets.into_iter().collect(),
    );
    state.security_groups = cluster.security_groups.keys().cloned().collect();
    state
}

fn local_overlay(
    overlay: &Overlay,
    own: Option<&Node>,
    uplink: Option<&Uplink>,
    lendable: Option<&[IpNet]>,
) -> LocalOverlay {
    let given = own.and_then(|own| {
        let mut given = own.subnets.iter();
        given.find(|subnets| subnets.overlay == overlay.name)
    });
    let subnet = given
        .and_then(|subnets| subnets.subnet)
        .and_then(lower_half_v4);
    let subnet6 = given
        .and_then(|subnets| subnets.subnet6)
        .and_then(lower_half_v6);
    let all = given.map_or(&[][..], |given| &given.blocks);
    let blocks = if overlay.lends_blocks {
        lendable.unwrap_or(all)
    } else {
        &[]
    };
    // A launch on an overlay without any family waits for the daemon.
    let published = if lacks_family(overlay, blocks) {
        &[]
    } else {
        blocks
    };
    let withdrawn = all.iter().filter(|block| !published.contains(block));
    let address = own.map_or(Ipv4Addr::UNSPECIFIED.into(), |own| own.address);
    let overhead = uplink::vxlan_overhead(address);
    let uplink_mtu = uplink.map_or(ETHERNET_MTU, |uplink| uplink.mtu);
    let max_mtu = uplink_mtu.saturating_sub(overhead);
    let mtu = overlay.mtu.unwrap_or(max_mtu);
    let has_v6 = subnet6.is_some() || (overlay.lends_blocks && overlay.subnet6.is_some());
    let min_mtu = if has_v6 { MIN_IPV6_MTU } else { MIN_IPV4_MTU };
    let problem = match (own, uplink) {
        _ if !overlay.enabled => Some("it is disabled in the managers' configuration".to_owned()),
        (None, _) => Some(
            "this node is not registered; see the log of contrail-mesos-node for why its reports fail"
                .to_owned(),
        ),
        // Containers would otherwise start with one family where they expect both.
        _ if overlay.lends_blocks && lacks_family(overlay, blocks) => Some(
            "this node has borrowed no block of it yet; if that stays so, see the problems of this node on \
             the managers' page, which say whether the overlay is used up"
                .to_owned(),
        ),
        _ if !overlay.lends_blocks && subnet.is_none() && subnet6.is_none() => Some(
            "this node has no subnet in it, or one that is too small; see the problems of this node on \
             the managers' page"
                .to_owned(),
        ),
        (Some(own), None) => Some(format!(
            "no interface of this host has the address {} by which the managers know this node; write \
             address in [node]",
            own.address
        )),
        (_, Some(uplink)) if mtu > max_mtu => Some(format!(
            "its MTU {mtu} is larger than {max_mtu}: the uplink {} has the MTU {uplink_mtu}, of which \
             VXLAN takes {overhead}; lower the overlay's or raise the uplink's",
            Quoted(uplink.name.as_bytes())
        )),
        (_, Some(uplink)) if mtu < min_mtu => Some(format!(
            "its MTU {mtu} is less than {min_mtu}; raise the MTU of the uplink {}, or that of the \
             overlay",
            Quoted(uplink.name.as_bytes())
        )),
        _ => None,
    };
    LocalOverlay {
        name: overlay.name.clone(),
        vni: overlay.vni,
        subnet,
        subnet6,
        blocks: published.to_vec(),
        withdrawn: withdrawn.copied().collect(),
        mtu,
        groups: overlay.groups,
        problem,
    }
}

/// Whether there are no blocks of a family that the overlay has.
fn lacks_family(overlay: &Overlay, blocks: &[IpNet]) -> bool {
    let mut subnets = overlay.subnets();
    subnets.any(|subnet| {
        let is_v4 = subnet.addr().is_ipv4();
        !blocks.iter().any(|block| block.addr().is_ipv4() == is_v4)
    })
}

fn lower_half_v4(subnet: Ipv4Net) -> Option<Ipv4Net> {
    match halves(IpNet::V4(subnet))? {
        (IpNet::V4(lower), _) => Some(lower),
        (IpNet::V6(_), _) => None,
    }
}

fn lower_half_v6(subnet: Ipv6Net) -> Option<Ipv6Net> {
    match halves(IpNet::V6(subnet))? {
        (IpNet::V6(lower), _) => Some(lower),
        (IpNet::V4(_), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, revision};

    fn uplink(mtu: u32) -> Uplink {
        Uplink {
            index: 2,
            name: "eth0".to_owned(),
            mtu,
        }
    }

    fn overlay_of(cluster: &ClusterState, uplink: Option<&Uplink>) -> LocalOverlay {
        local_state(cluster, uplink)
            .overlay("dcos")
            .unwrap()
            .clone()
    }

    #[test]
    fn containers_get_the_lower_half_and_the_uplinks_mtu() {
        let cluster = cluster("3.1");
        let state = local_state(&cluster, Some(&uplink(1500)));
        let expected = LocalOverlay {
            name: "dcos".to_owned(),
            vni: 4097,
            subnet: Some("9.0.1.0/25".parse().unwrap()),
            subnet6: Some("fd09:0:0:1::/65".parse().unwrap()),
            mtu: 1450,
            groups: None,
            problem: None,
            blocks: vec![],
            withdrawn: vec![],
        };
        assert_eq!(state.overlays, [expected]);
        assert_eq!(state.revision, revision("3.1"));
        let subnets = ["9.0.0.0/8", "44.128.0.0/16", "fd09::/48"];
        assert_eq!(
            state.cluster_subnets,
            subnets.map(|net| net.parse().unwrap())
        );
    }

    #[test]
    fn mtu_depends_on_the_underlays_family_and_the_overlay() {
        let mut cluster = cluster("3.1");
        let own = cluster.nodes.get_mut("node-1").unwrap();
        own.address = "2001:db8::1".parse().unwrap();
        assert_eq!(overlay_of(&cluster, Some(&uplink(9000))).mtu, 8930);
        cluster.overlays.get_mut("dcos").unwrap().mtu = Some(1400);
        let overlay = overlay_of(&cluster, Some(&uplink(9000)));
        assert_eq!((overlay.mtu, overlay.problem), (1400, None));
    }

    #[test]
    fn overlays_without_launches_have_a_problem() {
        let mut cluster = cluster("3.1");
        let problem = |cluster: &ClusterState, uplink: Option<&Uplink>| {
            overlay_of(cluster, uplink).problem.unwrap_or_default()
        };
        let eth0 = uplink(1500);
        assert!(problem(&cluster, None).contains("192.0.2.1"));
        assert!(problem(&cluster, Some(&uplink(1320))).contains("1280"));
        cluster.overlays.get_mut("dcos").unwrap().mtu = Some(1451);
        assert!(problem(&cluster, Some(&eth0)).contains("1451"));
        cluster.overlays.get_mut("dcos").unwrap().mtu = None;
        let mut without_subnet = cluster.clone();
        without_subnet
            .nodes
            .get_mut("node-1")
            .unwrap()
            .subnets
            .clear();
        assert!(problem(&without_subnet, Some(&eth0)).contains("no subnet"));
        let mut unregistered = cluster.clone();
        unregistered.nodes.remove("node-1");
        assert!(problem(&unregistered, None).contains("not registered"));
        let state = local_state(&unregistered, None);
        assert_eq!(problems(&unregistered, &state).len(), 1);
        cluster.overlays.get_mut("dcos").unwrap().enabled = false;
        assert!(problem(&cluster, Some(&eth0)).contains("disabled"));
        let state = local_state(&cluster, Some(&eth0));
        assert_eq!(problems(&cluster, &state), [] as [&str; 0]);
    }

    #[test]
    fn blocks_that_no_launch_uses_are_withdrawn() {
        let mut cluster = cluster("3.1");
        let overlay = cluster.overlays.get_mut("dcos").unwrap();
        (overlay.lends_blocks, overlay.subnet6) = (true, None);
        let given: Vec<IpNet> = ["9.0.0.0/28", "9.0.0.16/28"]
            .map(|block| block.parse().unwrap())
            .into();
        let own = &mut cluster.nodes.get_mut("node-1").unwrap().subnets[0];
        (own.subnet, own.subnet6, own.blocks) = (None, None, given.clone());
        let with = |lendable: &[IpNet]| {
            let overlay = &cluster.overlays["dcos"];
            let local = local_overlay(overlay, cluster.own_node(), None, Some(lendable));
            (local.blocks, local.withdrawn)
        };
        assert_eq!(with(&given), (given.clone(), vec![]));
        assert_eq!(
            with(&given[..1]),
            (given[..1].to_vec(), given[1..].to_vec())
        );
        assert_eq!(with(&[]), (vec![], given.clone()));
    }

    #[test]
    fn file_is_written_when_something_but_the_revision_changes() {
        let directory = tempfile::tempdir().unwrap();
        let mut subsystem = LocalStateSubsystem::new(directory.path().to_owned()).unwrap();
        let mut cluster = cluster("3.1");
        let changes = |subsystem: &mut LocalStateSubsystem, cluster: &ClusterState, mode| {
            subsystem.reconcile(cluster, mode).unwrap().changes.len()
        };
        assert_eq!(changes(&mut subsystem, &cluster, Mode::DryRun), 1);
        NodeState::read(directory.path()).unwrap_err();
        assert_eq!(changes(&mut subsystem, &cluster, Mode::Apply), 1);
        let written = NodeState::read(directory.path()).unwrap();
        assert_eq!(written.overlays.len(), 1);
        cluster.revision = revision("3.2");
        cluster.nodes.remove("node-2");
        assert_eq!(changes(&mut subsystem, &cluster, Mode::Apply), 0);
        cluster.overlays.clear();
        assert_eq!(changes(&mut subsystem, &cluster, Mode::Apply), 1);
        let written = NodeState::read(directory.path()).unwrap();
        assert_eq!(
            (written.overlays.len(), written.revision),
            (0, revision("3.2"))
        );
        // What somebody has damaged is written again.
        std::fs::write(NodeState::path(directory.path()), "x").unwrap();
        assert_eq!(changes(&mut subsystem, &cluster, Mode::Apply), 1);
    }
}
