//! The groups of containers: which traffic reaches the containers of this host whose networks isolate
//! groups, and those on isolated overlays.
//!
//! ```text
//! desired      what must be allowed: a pure function of the endpoints of this host and the cluster's state
//! checkpoints  notifications about the checkpoints, from which this host's endpoints are known
//! status       what is enforced, for the API, and what is reported to the managers
//! ```
//! The host of the destination decides, see `docs/adr/0031-groups-are-decided-at-the-destination.md`.
//! The tables are those of [`contrail_mesos::net::nft::groups`].
//!
//! Invariants: it works without any manager; then containers of other hosts are members of no group, but
//! for those of the last known state. What is not known is dropped: a container whose checkpoint cannot
//! be read, an address that no container has. Only the daemon's own tables are changed, each time in one
//! transaction. What this subsystem remembers of the tables is forgotten when anybody else changes them,
//! and at least every 20 seconds.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contrail_mesos::endpoints::{EndpointReader, LocalEndpoints};
use contrail_mesos::net::netlink::NetlinkError;
use contrail_mesos::net::nft::groups::{GroupTables, TABLE};
use contrail_mesos::net::nft::watch::TableEvents;
use contrail_mesos_api::cluster::EndpointsReport;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use tokio::sync::watch;

pub use self::status::{EnforcedEndpoint, GroupMembers, GroupsStatus, GroupsView};

use self::checkpoints::CheckpointWatch;
use self::desired::desired;
use crate::cluster_state::ClusterState;
use crate::subsystem::{BoxError, Change, ClusterUse, Mode, Outcome, Subsystem};

mod checkpoints;
mod desired;
#[cfg(test)]
pub(crate) mod root_tests;
mod status;

/// How long the tables are taken for what they were, without a notification. Less than the interval of
/// full comparisons, so that each of these lists them.
const LISTING_INTERVAL: Duration = Duration::from_secs(20);

/// Why the subsystem cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GroupsSetupError {
    /// The kernel refuses a socket.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel refuses notifications about files.
    #[error("cannot watch the checkpoints of containers: {0}")]
    Watch(#[from] Errno),
}

/// The subsystem `groups`.
#[derive(Debug)]
pub struct GroupsSubsystem {
    node: String,
    /// Whether the state of the cluster comes from managers.
    has_managers: bool,
    tables: GroupTables,
    events: TableEvents,
    checkpoints: CheckpointWatch,
    reader: EndpointReader,
    /// Readable when one of the notifications' descriptors is.
    epoll: Epoll,
    /// The endpoints of the last comparison.
    local: Option<LocalEndpoints>,
    /// Counts the changes of `local`.
    generation: u64,
    /// When the tables were listed last.
    listed: Option<Instant>,
    /// Whether the notifications that were read last are about containers.
    is_urgent: bool,
    status: watch::Sender<Arc<GroupsStatus>>,
    report: watch::Sender<Option<Arc<EndpointsReport>>>,
}

impl GroupsSubsystem {
    /// The subsystem of the daemon of `node` with this state directory, in the calling thread's network
    /// namespace. With `has_managers`, the state of the cluster may come later. Changes nothing.
    pub fn new(state_dir: &Path, node: &str, has_managers: bool) -> Result<Self, GroupsSetupError> {
        let tables = GroupTables::open()?;
        let events = TableEvents::subscribe(TABLE, tables.port())?;
        let checkpoints = CheckpointWatch::new(state_dir)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for descriptor in [events.descriptor(), checkpoints.descriptor()] {
            epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Self {
            node: node.to_owned(),
            has_managers,
            tables,
            events,
            checkpoints,
            reader: EndpointReader::new(state_dir),
            epoll,
            local: None,
            generation: 0,
            listed: None,
            is_urgent: false,
            status: watch::Sender::default(),
            report: watch::Sender::default(),
        })
    }

    /// The endpoints of this host now.
    fn read_endpoints(&mut self, mode: Mode) -> Result<(LocalEndpoints, Vec<String>), BoxError> {
        // What changes after a watch is set makes another comparison due, what changed before is read.
        let problems = match mode {
            Mode::Apply => self.checkpoints.update(),
            Mode::DryRun => vec![],
        };
        let local = self.reader.read()?;
        if self.local.as_ref() != Some(&local) {
            self.generation += 1;
            self.local = Some(local.clone());
        }
        Ok((local, problems))
    }

    fn compare(&mut self, cluster: Option<&ClusterState>, mode: Mode) -> Result<Outcome, BoxError> {
        self.receive_events();
        let (local, mut problems) = self.read_endpoints(mode)?;
        let (desired, contradictions) = desired(cluster, &local.endpoints);
        problems.extend(local.problems.iter().map(|problem| {
            format!(
                "a container may have groups that are not known, so nothing reaches it: {problem}"
            )
        }));
        problems.extend(contradictions);
        let node = cluster.map_or(&self.node, |cluster| &cluster.node);
        let (report, left_out) = status::report(node, &local.endpoints);
        // First, because only the first problems are kept.
        problems.splice(0..0, left_out);
        // Overlays may be isolated, so what an earlier run made stays until the managers have answered.
        let is_waiting = self.has_managers && cluster.is_none() && local.endpoints.is_empty();
        let changes = match mode {
            _ if is_waiting => vec![],
            Mode::DryRun => self.tables.plan(&desired)?,
            Mode::Apply => {
                // Before the tables, so that other hosts learn of a container even if they cannot be changed.
                self.report.send_if_modified(|present| {
                    let is_new = present.as_deref() != Some(&report);
                    if is_new {
                        *present = Some(Arc::new(report));
                    }
                    is_new
                });
                let now = Instant::now();
                if self
                    .listed
                    .is_none_or(|listed| now.duration_since(listed) > LISTING_INTERVAL)
                {
                    self.tables.forget();
                    self.listed = Some(now);
                }
                let changes = self.tables.apply(&desired)?;
                self.status.send_if_modified(|present| {
                    let status = GroupsStatus::new(&desired, &local.endpoints);
                    let is_new = **present != status;
                    if is_new {
                        *present = Arc::new(status);
                    }
                    is_new
                });
                changes
            }
        };
        Ok(Outcome {
            changes: changes.into_iter().map(Change).collect(),
            problems,
        })
    }

    /// Reads the notifications. Returns whether they make a comparison due.
    fn receive_events(&mut self) -> bool {
        let has_table_changed = match self.events.receive() {
            Ok(has_changed) => has_changed,
            Err(error) => {
                log::warn!("groups: cannot read notifications of the kernel: {error}");
                true
            }
        };
        if has_table_changed {
            self.tables.forget();
        }
        self.is_urgent = self.checkpoints.receive();
        has_table_changed || self.is_urgent
    }
}

impl Subsystem for GroupsSubsystem {
    fn name(&self) -> &'static str {
        "groups"
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        self.compare(Some(cluster), mode)
    }

    fn cluster_use(&self) -> ClusterUse {
        ClusterUse::Optional
    }

    fn reconcile_alone(&mut self, mode: Mode) -> Result<Outcome, BoxError> {
        self.compare(None, mode)
    }

    fn local_generation(&self) -> u64 {
        self.generation
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }

    fn receive(&mut self) -> bool {
        self.receive_events()
    }

    fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    fn groups(&self) -> Option<GroupsView> {
        Some(GroupsView {
            status: self.status.subscribe(),
            report: self.report.subscribe(),
        })
    }
}
