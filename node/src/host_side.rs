//! The subsystem `host-side`: puts back what the attached containers need of this host and somebody
//! has removed, also while no agent runs: bridges, their addresses and ports, forwarding, the nftables
//! table. It is the library's own code; a running agent repairs the same.
//!
//! Invariants: it needs no manager. Only what is missing is put back, and nothing for a container that
//! is being attached or detached: it holds the lock of the checkpoints meanwhile, for which every
//! detach waits. An interface that is gone is the agent's matter.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use contrail_mesos::isolator::AttachedContainers;
use contrail_mesos::provider::ProviderError;
use contrail_mesos::provider::bridge::HostRepair;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::cluster_state::ClusterState;
use crate::subsystem::{BoxError, Change, ClusterUse, Mode, Outcome, Subsystem};

/// How often everything is compared: there are settings without a notification.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The subsystem cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostSideError {
    /// The notifications of the kernel cannot be received.
    #[error(transparent)]
    Network(#[from] ProviderError),
    /// The notifications cannot be waited for.
    #[error("cannot wait for notifications about the host's side of containers: {0}")]
    Wait(#[from] Errno),
}

/// See the documentation of the module.
#[derive(Debug)]
pub struct HostSideSubsystem {
    repair: HostRepair,
    containers: AttachedContainers,
    timer: TimerFd,
    /// Readable when there is a notification of any kind.
    epoll: Epoll,
}

impl HostSideSubsystem {
    /// The host's side of the containers of a state directory, in the network namespace of the calling
    /// thread. Changes nothing.
    pub fn new(state_dir: &Path) -> Result<Self, HostSideError> {
        let repair = HostRepair::new(state_dir)?;
        let containers = AttachedContainers::new(state_dir);
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let interval = Expiration::Interval(TimeSpec::from_duration(POLL_INTERVAL));
        timer.set(interval, TimerSetTimeFlags::empty())?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        repair.descriptors(|descriptors| {
            let mut added = descriptors.into_iter();
            added.try_for_each(|descriptor| epoll.add(descriptor, readable()))
        })?;
        if let Some(descriptor) = containers.descriptor() {
            epoll.add(descriptor, readable())?;
        }
        epoll.add(timer.as_fd(), readable())?;
        Ok(Self {
            repair,
            containers,
            timer,
            epoll,
        })
    }
}

impl Subsystem for HostSideSubsystem {
    fn name(&self) -> &'static str {
        "host-side"
    }

    fn reconcile(&mut self, _cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        self.reconcile_alone(mode)
    }

    fn cluster_use(&self) -> ClusterUse {
        ClusterUse::Unused
    }

    fn reconcile_alone(&mut self, mode: Mode) -> Result<Outcome, BoxError> {
        let Some(lock) = self.containers.checkpoints().lock_for_repair()? else {
            if mode == Mode::Apply {
                self.containers.create_directory()?;
                // Watches it.
                self.receive();
            }
            return Ok(Outcome::default());
        };
        let checkpoints = self.containers.read(&lock)?;
        let networks = checkpoints
            .iter()
            .flat_map(|checkpoint| &checkpoint.networks);
        let intents = networks.map(|network| &network.intent);
        let is_dry_run = mode == Mode::DryRun;
        let outcome = self.repair.repair(intents, lock.deadline(), is_dry_run)?;
        Ok(Outcome {
            changes: outcome.faults.into_iter().map(Change).collect(),
            problems: outcome.failures,
        })
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }

    fn receive(&mut self) -> bool {
        // Each is read, so that none keeps the descriptor readable.
        let is_changed = self.repair.receive();
        let is_attached = self.containers.receive().unwrap_or_else(|error| {
            log::error!(error:%; "notifications about new containers cannot be read");
            true
        });
        let is_time = self.timer.wait().is_ok();
        is_changed || is_attached || is_time
    }
}
