//! The blocks of overlays that lend them: which of them containers of this host get addresses of, how
//! many addresses this host wants, and which blocks it gives back.
//!
//! ```text
//! plan         which blocks are used, and how many addresses are wanted: a pure function
//! lease_watch  notifications about leases
//! ```
//! A block is given back in steps, each of which is on the disk before the next one:
//!
//! 1. It is left out of the node state, so no launch gets an address of it any more.
//! 2. Once neither a lease nor a checkpoint has an address of it, it is *offered*: written to the file
//!    `node/blocks.json`, and only then reported to the managers. A launch looks at the node state again
//!    after it has written its lease, so it either is seen here, or sees that the block is gone.
//! 3. The managers take it, and count that ([`NodeSubnets::returned`]). Until then it is not used.
//!
//! Invariants: a block that is offered is not used until the managers' state says that they have taken
//! it and have given it again, also after a restart. What cannot be read counts as used. The file of the
//! offers names the revision that it follows from: the managers' state is stored later than it, so a
//! restart may know an older one, which says nothing about these offers. A block of which this host has
//! an address is in use, also if all leases were lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use contrail_mesos::leased_addresses::{checkpointed, leased};
use contrail_mesos::net::addressing;
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::node_state::{NodeState, replace_file};
use contrail_mesos_api::cluster::{BlockReport, NodeSubnets, Overlay, Revision, block_capacity};
use contrail_mesos_api::files::read_regular_file;
use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::lease_watch::LeaseWatch;
use self::plan::{BlockPlan, BlockUse, plan};
use crate::cluster_state::ClusterState;
use crate::subsystem::{BoxError, Mode};

mod lease_watch;
mod plan;

/// How long a launch counts for the reserve.
const RECENT: Duration = Duration::from_secs(30);

/// What this host wants of each overlay that lends blocks, for the reports.
pub type BlockReports = watch::Receiver<Vec<BlockReport>>;

/// The blocks that are offered, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Offers {
    /// The revision of the managers' state that they follow from.
    #[serde(default)]
    revision: Revision,
    /// By the name of the overlay.
    overlays: BTreeMap<String, Offer>,
}

/// The blocks of an overlay that are offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Offer {
    /// How often the managers had taken blocks back before.
    returned: u64,
    blocks: BTreeSet<IpNet>,
}

/// What follows for one overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OverlayBlocks {
    /// The blocks that containers get addresses of.
    pub(crate) lendable: Vec<IpNet>,
    draining: BTreeSet<IpNet>,
    /// How many addresses of IPv4 and of IPv6 are wanted beyond those of its blocks.
    lacking: [u32; 2],
    /// None while it is not known which blocks are offered.
    report: Option<BlockReport>,
}

impl OverlayBlocks {
    /// What the managers have to know at once. The rest goes with the next report.
    fn urgent(&self) -> Option<Urgent> {
        self.report.as_ref().map(|report| Urgent {
            overlay: report.overlay.clone(),
            lacking: self.lacking,
            returned: report.returned,
            returns: report.returns.clone(),
        })
    }
}

/// See [`OverlayBlocks::urgent`].
#[derive(Debug, PartialEq, Eq)]
struct Urgent {
    overlay: String,
    lacking: [u32; 2],
    returned: u64,
    returns: Vec<IpNet>,
}

/// By the name of the overlay.
pub(crate) type BlocksByOverlay = BTreeMap<String, OverlayBlocks>;

/// Keeps the blocks of one state directory.
#[derive(Debug)]
pub(crate) struct BlockKeeper {
    state_dir: PathBuf,
    watch: LeaseWatch,
    /// The blocks that were offered, as the file has them; none if it was not read yet.
    offers: Option<Offers>,
    /// The blocks that were kept free.
    draining: BTreeMap<String, BTreeSet<IpNet>>,
    /// When leases of blocks were seen first; none for those of the first comparison.
    first_seen: Option<HashMap<IpAddr, Option<Instant>>>,
    /// The last result.
    last: BlocksByOverlay,
    /// Counts the changes of `last`.
    generation: u64,
    reports: watch::Sender<Vec<BlockReport>>,
    /// What of the reports was the reason of the last notification.
    urgent: Vec<Urgent>,
}

impl BlockKeeper {
    /// Reads nothing yet.
    pub(crate) fn new(state_dir: &Path) -> Result<Self, Errno> {
        Ok(Self {
            state_dir: state_dir.to_owned(),
            watch: LeaseWatch::new(state_dir)?,
            offers: None,
            draining: BTreeMap::new(),
            first_seen: None,
            last: BTreeMap::new(),
            generation: 0,
            reports: watch::Sender::default(),
            urgent: vec![],
        })
    }

    /// The descriptor that becomes readable when leases change.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.watch.descriptor()
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether any is about leases.
    pub(crate) fn receive(&mut self) -> bool {
        self.watch.receive()
    }

    /// What is reported.
    pub(crate) fn reports(&self) -> BlockReports {
        self.reports.subscribe()
    }

    /// Another number after something has changed that is not the managers' state.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    fn path(&self) -> PathBuf {
        self.state_dir.join("node").join("blocks.json")
    }

    /// The blocks that containers get addresses of from now on. The caller writes them to the node state,
    /// and then calls [`BlockKeeper::conclude`]. Blocks on the file system.
    pub(crate) fn plan(
        &mut self,
        cluster: &ClusterState,
        mode: Mode,
        now: Instant,
    ) -> Result<(BlocksByOverlay, Vec<String>), BoxError> {
        let lending: Vec<&str> = lending(cluster).collect();
        if lending.is_empty() {
            if mode == Mode::Apply {
                self.remember(BTreeMap::new());
            }
            return Ok((BTreeMap::new(), vec![]));
        }
        let problem = match mode {
            Mode::Apply => self.watch.update(),
            Mode::DryRun => None,
        };
        let known = match self.known_offers() {
            Ok(known) => known,
            Err(error) => {
                let problems = problem.into_iter().chain([error]);
                return Ok((self.keep_published(cluster, mode), problems.collect()));
            }
        };
        let offers = self.offers(cluster, &known, mode)?;
        let used = leased(&self.state_dir)?;
        self.note_leases(cluster, &used, now);
        let mut all = BTreeMap::new();
        for name in lending {
            let given = subnets(cluster, name);
            let offer = offers.overlays.get(name);
            let offered = offer.map(|offer| offer.blocks.clone()).unwrap_or_default();
            let draining = self.draining.get(name).cloned().unwrap_or_default();
            let [v4, v6] = [true, false].map(|is_v4| {
                let blocks = given.iter().flat_map(|given| &given.blocks);
                let blocks: BTreeMap<IpNet, u32> = blocks
                    .filter(|block| block.addr().is_ipv4() == is_v4)
                    .map(|block| (*block, count_in(*block, &used)))
                    .collect();
                plan(BlockUse {
                    blocks: &blocks,
                    offered: &offered,
                    draining: &draining,
                    recent: self.recent(&blocks, now),
                })
            });
            let has = |is_v4: bool| {
                let overlay = cluster.overlays.get(name);
                let mut subnets = overlay.into_iter().flat_map(Overlay::subnets);
                subnets.any(|subnet| subnet.addr().is_ipv4() == is_v4)
            };
            let wanted = |is_v4, plan: &BlockPlan| if has(is_v4) { plan.wanted } else { 0 };
            let lacking = [(true, &v4), (false, &v6)].map(|(is_v4, plan)| {
                let blocks = given.iter().flat_map(|given| &given.blocks);
                let own = blocks
                    .filter(|block| block.addr().is_ipv4() == is_v4 && !offered.contains(*block));
                let capacity: u32 = own.map(|block| block_capacity(*block)).sum();
                wanted(is_v4, plan).saturating_sub(capacity)
            });
            let report = BlockReport {
                overlay: name.to_owned(),
                used: v4.used,
                wanted: wanted(true, &v4),
                used6: v6.used,
                wanted6: wanted(false, &v6),
                returned: offer.map_or_else(
                    || given.map_or(0, |given| given.returned),
                    |offer| offer.returned,
                ),
                returns: offered.into_iter().collect(),
            };
            let blocks = OverlayBlocks {
                lendable: v4.lendable.union(&v6.lendable).copied().collect(),
                draining: v4.draining.union(&v6.draining).copied().collect(),
                lacking,
                report: Some(report),
            };
            all.insert(name.to_owned(), blocks);
        }
        if mode == Mode::Apply {
            self.remember(all.clone());
        }
        Ok((all, problem.into_iter().collect()))
    }

    /// Offers the blocks that are free, now that the node state leaves them out, and publishes what is
    /// reported. Returns what keeps blocks from being given back.
    pub(crate) fn conclude(&mut self, cluster: &ClusterState) -> Vec<String> {
        let mut problems = vec![];
        if self.last.values().any(|blocks| !blocks.draining.is_empty())
            && let Err(error) = self.offer(cluster)
        {
            problems.push(format!("no block is given back: {error}"));
        }
        let all = self.last.values();
        let reports: Vec<BlockReport> = all
            .clone()
            .filter_map(|blocks| blocks.report.clone())
            .collect();
        let urgent: Vec<Urgent> = all.filter_map(OverlayBlocks::urgent).collect();
        self.reports.send_if_modified(|known| {
            *known = reports;
            urgent != self.urgent
        });
        self.urgent = urgent;
        problems
    }

    fn offer(&mut self, cluster: &ClusterState) -> Result<(), BoxError> {
        // After the node state was written.
        let mut used = leased(&self.state_dir)?;
        let is_free = |used: &BTreeSet<IpAddr>, block: &IpNet| count_in(*block, used) == 0;
        let draining = self.last.values().flat_map(|blocks| &blocks.draining);
        if !draining.clone().any(|block| is_free(&used, block)) {
            return Ok(());
        }
        used.extend(checkpointed(&self.state_dir).map_err(|error| {
            format!("the addresses of a container are not known: {error}; remove the checkpoint if its container is gone")
        })?);
        // A bridge has an address of each block in which containers are, of which the leases may be lost.
        let on_this_host = addressing::addresses(&mut NetlinkSocket::route()?)?;
        used.extend(on_this_host.iter().map(|(_, net)| net.addr()));
        let mut offers = self.known_offers()?;
        for (name, blocks) in &self.last {
            let Some(report) = &blocks.report else {
                continue;
            };
            let free: BTreeSet<IpNet> = blocks
                .draining
                .iter()
                .copied()
                .filter(|block| is_free(&used, block))
                .collect();
            if free.is_empty() {
                continue;
            }
            let offer = offers.overlays.entry(name.clone()).or_default();
            offer.returned = report.returned;
            offer.blocks.extend(free);
        }
        if self.offers.as_ref() == Some(&offers) {
            return Ok(());
        }
        offers.revision = cluster.revision;
        self.write(&offers)?;
        for (name, offer) in &offers.overlays {
            if let Some(blocks) = self.last.get_mut(name) {
                blocks
                    .draining
                    .retain(|block| !offer.blocks.contains(block));
                if let Some(report) = &mut blocks.report {
                    report.returns = offer.blocks.iter().copied().collect();
                }
            }
        }
        self.offers = Some(offers);
        Ok(())
    }

    /// The offers as the file has them.
    fn known_offers(&self) -> Result<Offers, String> {
        match &self.offers {
            Some(offers) => Ok(offers.clone()),
            None => self.read(),
        }
    }

    /// The offers that the managers have not taken.
    fn offers(
        &mut self,
        cluster: &ClusterState,
        known: &Offers,
        mode: Mode,
    ) -> Result<Offers, BoxError> {
        if cluster.revision < known.revision {
            return Err(format!(
                "the stored state of the managers is of revision {}, older than {}, which is of {}; \
                 launches go on with what {} has until a manager answers",
                cluster.revision,
                self.path().display(),
                known.revision,
                NodeState::path(&self.state_dir).display()
            )
            .into());
        }
        let mut offers = known.clone();
        // Without an entry, nobody knows whether they were taken.
        offers.overlays.retain(|name, offer| {
            subnets(cluster, name).is_none_or(|given| given.returned == offer.returned)
        });
        if mode == Mode::Apply {
            if offers != *known {
                offers.revision = cluster.revision;
                self.write(&offers)?;
            }
            self.offers = Some(offers.clone());
        }
        Ok(offers)
    }

    /// What follows while it is not known which blocks are offered: the blocks that containers got
    /// addresses of before, which are not offered. Nothing is reported. Blocks on the file system.
    fn keep_published(&mut self, cluster: &ClusterState, mode: Mode) -> BlocksByOverlay {
        // Without it, no block is known to be this host's.
        let published = NodeState::read(&self.state_dir).ok();
        let all: BlocksByOverlay = lending(cluster)
            .map(|name| {
                let overlay = published.as_ref().and_then(|state| state.overlay(name));
                let before = overlay.map_or(&[][..], |overlay| &overlay.blocks);
                let given = subnets(cluster, name).map_or(&[][..], |given| &given.blocks);
                let lendable = before.iter().copied();
                let blocks = OverlayBlocks {
                    lendable: lendable.filter(|block| given.contains(block)).collect(),
                    ..OverlayBlocks::default()
                };
                (name.to_owned(), blocks)
            })
            .collect();
        if mode == Mode::Apply {
            self.remember(all.clone());
        }
        all
    }

    fn read(&self) -> Result<Offers, String> {
        let path = self.path();
        let failed = |error: String| {
            format!(
                "cannot read {}, which says which blocks this host has given back: {error}; launches go on in \
                 the blocks that they use now, and no block is borrowed or given back; delete this node from \
                 the managers once no container of an overlay that lends blocks runs on it, and remove the \
                 file",
                path.display()
            )
        };
        match read_regular_file(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Offers::default()),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn write(&self, offers: &Offers) -> Result<(), BoxError> {
        let path = self.path();
        replace_file(&path, &serde_json::to_vec_pretty(offers)?)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(())
    }

    fn remember(&mut self, all: BlocksByOverlay) {
        if all != self.last {
            self.generation += 1;
        }
        self.draining = all
            .iter()
            .map(|(name, blocks)| (name.clone(), blocks.draining.clone()))
            .collect();
        self.last = all;
    }

    /// Notes since when addresses of blocks are leased. What is there at the start is not recent.
    fn note_leases(&mut self, cluster: &ClusterState, used: &BTreeSet<IpAddr>, now: Instant) {
        let blocks: Vec<IpNet> = lending(cluster)
            .filter_map(|name| subnets(cluster, name))
            .flat_map(|given| given.blocks.iter().copied())
            .collect();
        let seen = self.first_seen.is_some().then_some(now);
        let known = self.first_seen.take().unwrap_or_default();
        let in_blocks = used
            .iter()
            .filter(|address| blocks.iter().any(|block| block.contains(*address)));
        let first_seen = in_blocks.map(|address| {
            let since = known.get(address).copied().unwrap_or(seen);
            (*address, since)
        });
        self.first_seen = Some(first_seen.collect());
    }

    /// How many addresses of blocks were leased in the last moments.
    fn recent(&self, blocks: &BTreeMap<IpNet, u32>, now: Instant) -> u32 {
        let first_seen = self.first_seen.iter().flatten();
        let recent = first_seen.filter(|(address, since)| {
            since.is_some_and(|since| now.saturating_duration_since(since) < RECENT)
                && blocks.keys().any(|block| block.contains(*address))
        });
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }
}

/// The names of the overlays that lend blocks.
fn lending(cluster: &ClusterState) -> impl Iterator<Item = &str> {
    let overlays = cluster.overlays.values();
    overlays
        .filter(|overlay| overlay.lends_blocks)
        .map(|overlay| overlay.name.as_str())
}

/// What this host has of an overlay.
fn subnets<'a>(cluster: &'a ClusterState, overlay: &str) -> Option<&'a NodeSubnets> {
    let own = cluster.own_node()?;
    own.subnets.iter().find(|given| given.overlay == overlay)
}

/// How many of the addresses are in a block.
fn count_in(block: IpNet, addresses: &BTreeSet<IpAddr>) -> u32 {
    let range = block.network()..=block.broadcast();
    u32::try_from(addresses.range(range).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
