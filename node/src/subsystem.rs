//! The parts of the daemon, each of which keeps one kind of state on this host.
//!
//! Invariants: a subsystem runs on a thread of its own, and nothing else calls it meanwhile. It
//! remembers nothing that the next comparison needs: after a restart the first comparison finds what
//! an earlier daemon left. It removes only what carries its own mark, and only what a complete
//! [`ClusterState`] does not have.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tokio::sync::watch;

use super::blocks::BlockReports;
use super::cluster_state::ClusterState;
use super::dns::DnsView;
use super::groups::GroupsView;
use super::services::{ServiceStatus, ServicesView};

/// The error of a whole comparison.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whether differences are corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Correct them.
    Apply,
    /// Only say what would be changed.
    DryRun,
}

/// One change, made or, in a dry run, due. Such as "add route 9.0.2.0/24 via 44.128.0.2 dev vtep4097".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change(pub String);

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was changed, in order.
    pub changes: Vec<Change>,
    /// What is not as it must be and could not be changed. Each says what failed, where, and what
    /// the operator can do.
    pub problems: Vec<String>,
}

/// What a subsystem needs of the managers' state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterUse {
    /// It compares only with a state.
    #[default]
    Required,
    /// It compares from the start, and with a state once there is one.
    Optional,
    /// It never needs one: no state makes a comparison due, and it applies no revision.
    Unused,
}

/// A part of the daemon.
pub trait Subsystem: Send + 'static {
    /// Its name in messages, metrics and reports: one word such as `overlay`.
    fn name(&self) -> &'static str;

    /// Compares what is there with what `cluster` asks for, and corrects it. Blocks. After a failure
    /// at one object it goes on with the others, and reports a problem. An error means that nothing
    /// could be compared.
    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError>;

    /// What it needs of the managers' state.
    fn cluster_use(&self) -> ClusterUse {
        ClusterUse::Required
    }

    /// As [`Subsystem::reconcile`], with what this host knows by itself. Called before there is a
    /// state, unless one is required, and always if none is used.
    fn reconcile_alone(&mut self, mode: Mode) -> Result<Outcome, BoxError> {
        let _ = mode;
        Ok(Outcome::default())
    }

    /// A number that is another one after a comparison whose desired state, apart from the managers'
    /// state, was another than before. What such a comparison changes is no repair.
    fn local_generation(&self) -> u64 {
        0
    }

    /// A descriptor that becomes readable when something has changed on the host, if the kernel
    /// notifies about what this subsystem keeps.
    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether a comparison is
    /// due: the subsystem's own changes need none.
    fn receive(&mut self) -> bool {
        false
    }

    /// Whether somebody waits for what the notifications that were read last are about, such as a
    /// container that starts: the comparison is due almost at once.
    fn is_urgent(&self) -> bool {
        false
    }

    /// What other parts of the daemon see of the groups of containers, if it keeps these.
    fn groups(&self) -> Option<GroupsView> {
        None
    }

    /// What this host wants of overlays that lend blocks, if it keeps these.
    fn blocks(&self) -> Option<BlockReports> {
        None
    }

    /// What other parts of the daemon see of the services, if it keeps their data path.
    fn services(&self) -> Option<ServicesView> {
        None
    }

    /// What the API shows of the services, if it keeps their data path.
    fn service_status(&self) -> Option<watch::Receiver<Arc<ServiceStatus>>> {
        None
    }

    /// What other parts of the daemon see of the DNS server, if it is that.
    fn dns(&self) -> Option<DnsView> {
        None
    }
}
