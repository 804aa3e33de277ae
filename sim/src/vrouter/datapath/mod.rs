//! The data path: what the configuration and the ports say, in the kernel.
//!
//! ```text
//! plan    what there should be, from the configuration alone (access: who may talk to whom)
//! items   the links, addresses, routes, neighbours and fdb entries of a plan, and how each is made
//! rules   the nftables text of a plan
//! apply   brings the kernel to it, by ip, bridge and nft
//! ```
//!
//! Each virtual network is a bridge whose ports are the taps, and a VXLAN with the network's number
//! to the other hosts, with an entry for each interface that is known to be elsewhere and
//! replication to all hosts for the rest. Hosts share the gateway's Ethernet address; frames that
//! leave for another host have one of the host's own. Routes are those of single addresses, with
//! permanent neighbours, as the control plane knows them: a host routes between two networks that
//! a policy connects, and the answer may come by another host.
//!
//! The bridge family has no connection tracking here, so that bridged packets pass the inet hooks
//! (`nf_call_iptables`, for our bridges alone), where a mark is set on what belongs to a known
//! connection; groups are then checked in the bridge family, which knows the taps.
//!
//! Invariants: names of links and tables are ours (`cvrb…`, `cvrx…`, `contrail_vrouter_sim`), an
//! address on the uplink has a label of ours; an interface is a port of its bridge only once its
//! rules are there; nothing that a framework wrote gets into a command except the names of taps,
//! which are checked. There is one agent in a network namespace.
//!
//! Decided:
//!
//! - An interface without security groups may everything, as in the real agent. With groups, what
//!   none of their rules allows is dropped in both directions. A group without rules allows nothing.
//! - Anti-spoofing goes with `port_security_enabled`.
//! - Networks are connected where the policies of both have a rule for the other; then those of the
//!   source decide, then those of the destination, the first rule that fits. The network `ip-fabric`
//!   is the host and what lies beyond it; what goes there is masqueraded.
//! - Of two networks on one host that have an address in common the one of the higher number is
//!   switched only: without gateway, routes and floating addresses. That is a problem in the log.
//!
//! Left out: a floating address is answered for on the uplink alone, not in its own virtual network
//! and not for interfaces of the same host; behind one that several interfaces have, only those of
//! the host that answers take turns. Interfaces that are VLANs of others. Rules between interfaces
//! of one network. No name server answers at the DNS address. Settings that are made on the uplink
//! (forwarding) stay.

mod access;
mod apply;
mod error;
mod items;
mod plan;
mod rules;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

pub use error::DataPathError;

use super::options::Forwarding;
use super::state::Shared;
use crate::harness::lock;
use apply::Kernel;

/// How often the kernel is compared with the plan when nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// Removes what an earlier agent left in this namespace; says which links there are.
pub(super) fn start_afresh(forwarding: &Forwarding) -> Result<BTreeSet<String>, DataPathError> {
    let mut kernel = Kernel::open(forwarding.clone())?;
    kernel.remove_everything()?;
    let links = kernel.link_names()?;
    match &forwarding.uplink {
        Some(uplink) if !links.contains(uplink) => Err(DataPathError::NoUplink(uplink.clone())),
        _ => Ok(links),
    }
}

/// The thread on which all of it happens, in the namespace of whoever started it.
pub(super) struct Thread {
    running: JoinHandle<Result<(), DataPathError>>,
    stopping: Arc<AtomicBool>,
    wake: SyncSender<()>,
}

impl Thread {
    pub(super) fn start(
        shared: Arc<Shared>,
        forwarding: Forwarding,
    ) -> Result<Self, DataPathError> {
        let (wake, woken) = sync_channel(1);
        *lock(&shared.wake) = Some(wake.clone());
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let running = std::thread::Builder::new()
            .name("cvr-datapath".to_owned())
            .spawn(move || {
                let mut kernel = Kernel::open(forwarding.clone())?;
                while !stop.load(Ordering::SeqCst) {
                    if shared.lock().synced.is_complete() {
                        pass(&shared, &forwarding, &mut kernel);
                    }
                    match woken.recv_timeout(TICK) {
                        Err(RecvTimeoutError::Disconnected) => break,
                        Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    }
                }
                kernel.remove_everything()
            })
            .map_err(DataPathError::Thread)?;
        Ok(Self {
            running,
            stopping,
            wake,
        })
    }

    pub(super) async fn stop(self) -> Result<(), DataPathError> {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = self.wake.try_send(());
        let running = self.running;
        let joined = tokio::task::spawn_blocking(move || running.join()).await;
        match joined {
            Ok(Ok(result)) => result,
            _ => Err(DataPathError::Thread(io::Error::other("it panicked"))),
        }
    }
}

fn pass(shared: &Shared, forwarding: &Forwarding, kernel: &mut Kernel) {
    let plan = plan::plan(&shared.lock(), &shared.options, forwarding);
    let mut problems = plan.problems.clone();
    let connected = match kernel.apply(&plan, shared.options.address) {
        Ok((connected, more)) => {
            problems.extend(more);
            connected
        }
        Err(error) => {
            problems.insert(error.to_string());
            BTreeSet::new()
        }
    };
    let mut state = shared.lock();
    for problem in problems.difference(&state.problems) {
        log::warn!("{}: {problem}", shared.options.name);
    }
    state.problems = problems;
    let forwarding = plan
        .taps
        .iter()
        .filter(|(name, _)| connected.contains(*name))
        .map(|(_, tap)| tap.interface);
    state.forwarding = Some(forwarding.collect());
}
