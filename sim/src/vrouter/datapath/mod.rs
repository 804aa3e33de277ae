//! The data path: configuration and ports, applied to the kernel.
//!
//! ```text
//! plan    what there should be on this host (access: security groups and policies)
//! items   links, addresses, routes, neighbours and fdb entries of a plan, and their commands
//! rules   the nftables rules of a plan (virtual_ips: floating IPs in networks, link-local services)
//! apply   applies a plan with ip, bridge and nft
//! ```
//!
//! Each virtual network is a bridge with the taps as ports, and a VXLAN with the network's number
//! to the other hosts. The VXLAN has a forwarding entry for each interface that is known to be on
//! another host, and replicates all other frames to all hosts. Hosts share the gateway's MAC
//! address; frames that leave for another host have a MAC address of the host. Routes are host
//! routes with permanent neighbours, as the control plane knows the addresses: a host routes
//! between two networks that a policy connects, and the response may come through another host.
//!
//! The bridge family has no connection tracking here. Bridged packets therefore pass the inet hooks
//! (`nf_call_iptables`, for our bridges only), which mark packets of known connections; security
//! groups are then checked in the bridge family, which knows the taps.
//!
//! Invariants: links, tables and the label of addresses on the uplink have names of ours (`cvrb…`,
//! `cvrx…`, `contrail_vrouter_sim`); an interface becomes a port of its bridge only once its rules
//! exist; of everything that a framework wrote, only the names of taps get into commands, and those
//! are checked. There is one agent per network namespace.
//!
//! Decisions:
//!
//! - As in the real agent, an interface without security groups allows everything. With groups,
//!   everything that no rule allows is dropped in both directions. A group without rules allows
//!   nothing.
//! - Anti-spoofing applies with `port_security_enabled`.
//! - Networks are connected if the policies of both have a rule for the other. The first matching
//!   rule of the source decides, then that of the destination. The network `ip-fabric` is the host
//!   and everything beyond it; packets to it are masqueraded.
//! - Of two networks on one host that share an address, the one with the higher number is only
//!   switched: it has no gateway, routes or floating IPs. The log reports that as a problem.
//!
//! - A floating IP is reached from its own virtual network and from those that policies connect with it.
//!   Connections are balanced over its interfaces on all hosts, and ports that are not mapped are dropped.
//!   Through the uplink, a floating IP of a pool is balanced over the interfaces of the host that the
//!   packets come to. One below an instance-ip is not reached through the uplink.
//!
//! Left out: an interface does not reach itself by its own floating IP. Names of the servers of
//! link-local services. Sub-interfaces with a VLAN. Rules between interfaces of one network. A
//! name server at the DNS address. Settings of the uplink (forwarding) are not restored.

mod access;
mod apply;
mod error;
mod items;
mod plan;
mod rules;
mod virtual_ips;

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

/// How often the kernel is compared with the plan without a change.
const RECONCILE_INTERVAL: Duration = Duration::from_millis(500);

/// Removes what an earlier agent left in this namespace, and returns the names of the links.
pub(super) fn start_afresh(forwarding: &Forwarding) -> Result<BTreeSet<String>, DataPathError> {
    let mut kernel = Kernel::open(forwarding.clone())?;
    kernel.remove_everything()?;
    let links = kernel.link_names()?;
    match &forwarding.uplink {
        Some(uplink) if !links.contains(uplink) => Err(DataPathError::NoUplink(uplink.clone())),
        _ => Ok(links),
    }
}

/// The thread of the data path, in the network namespace of the caller.
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
                        apply_plan(&shared, &forwarding, &mut kernel);
                    }
                    match woken.recv_timeout(RECONCILE_INTERVAL) {
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

fn apply_plan(shared: &Shared, forwarding: &Forwarding, kernel: &mut Kernel) {
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
