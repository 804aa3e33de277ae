//! Begins and ends faults.

use anyhow::Result;
use nix::sys::signal::Signal;

use super::Testbed;
use super::plan::{Fault, Harm, Removal, Victim};
use crate::chaos::Role;
use crate::chaos::cut::{Cut, cut, mend};
use crate::testbed::manager::AGENT_PORT;

/// The name of the rules that cut a node from the managers.
const PARTITION: &str = "managers";

/// A fault that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    fault: Fault,
    /// The index of the manager.
    manager: usize,
}

impl Testbed {
    /// Begins a fault. `None` if it is over at once, or if every manager that it could affect has a
    /// fault already.
    pub(super) fn begin(&mut self, fault: Fault) -> Result<Option<Active>> {
        let mut manager = 0;
        match (fault.victim, fault.harm) {
            (Victim::Manager(role), harm) => {
                let Some(index) = self.manager(role) else {
                    self.note("every manager has a fault already");
                    return Ok(None);
                };
                manager = index;
                self.faulty_managers[index] = true;
                let process = self.cluster.managers.manager_mut(index);
                match harm {
                    Harm::Frozen => process.signal(Signal::SIGSTOP)?,
                    _ => process.kill()?,
                }
            }
            (Victim::ZooKeeper, Harm::Frozen) => self.cluster.mesos.zookeeper.pause()?,
            (Victim::ZooKeeper, _) => self.cluster.mesos.zookeeper.kill()?,
            (Victim::Daemon(node), Harm::Frozen) => {
                self.cluster.daemons[node].signal(Signal::SIGSTOP)?;
            }
            (Victim::Daemon(node), _) => self.cluster.daemons[node].kill()?,
            (Victim::Agent(node), _) => self.cluster.mesos.nodes[node].cluster.kill_9()?,
            (Victim::Network(node), Harm::CutFromManagers) => {
                cut(self.cluster.host(node), PARTITION, Cut::From(&[AGENT_PORT]))?;
            }
            (Victim::Network(node), _) => self.cluster.node(node).pull_cable()?,
            (Victim::Kernel(node), harm) => {
                if let Harm::Removed(removal) = harm {
                    self.remove(node, removal)?;
                }
                return Ok(None);
            }
        }
        Ok(Some(Active { fault, manager }))
    }

    /// Ends a fault.
    pub(super) fn heal(&mut self, active: Active) -> Result<()> {
        match (active.fault.victim, active.fault.harm) {
            (Victim::Manager(_), harm) => {
                self.faulty_managers[active.manager] = false;
                let process = self.cluster.managers.manager_mut(active.manager);
                match harm {
                    Harm::Frozen => process.signal(Signal::SIGCONT)?,
                    _ => process.start()?,
                }
            }
            (Victim::ZooKeeper, Harm::Frozen) => self.cluster.mesos.zookeeper.resume()?,
            (Victim::ZooKeeper, _) => self.cluster.mesos.zookeeper.run()?,
            (Victim::Daemon(node), Harm::Frozen) => {
                self.cluster.daemons[node].signal(Signal::SIGCONT)?;
            }
            (Victim::Daemon(node), _) => self.cluster.daemons[node].start()?,
            (Victim::Agent(node), _) => self.cluster.mesos.nodes[node].cluster.restart()?,
            (Victim::Network(node), Harm::CutFromManagers) => {
                mend(self.cluster.host(node), PARTITION)?;
            }
            (Victim::Network(node), _) => self.cluster.node(node).plug_cable()?,
            (Victim::Kernel(_), _) => {}
        }
        Ok(())
    }

    /// The manager in that role now. If none leads, any manager without a fault.
    fn manager(&self, role: Role) -> Option<usize> {
        let managers = self.cluster.managers.managers();
        let healthy = |index: &usize| !self.faulty_managers[*index];
        let mut all = (0..managers.len()).filter(healthy);
        let leader = all.clone().find(|index| managers[*index].is_leading());
        match role {
            Role::Leader => leader.or_else(|| all.next()),
            Role::Standby => {
                let other = all.clone().find(|index| Some(*index) != leader);
                other.or_else(|| all.next())
            }
        }
    }

    fn remove(&self, node: usize, removal: Removal) -> Result<()> {
        let devices = "ip -o link show type vxlan | cut -d: -f2 | tr -d ' '";
        let script = match removal {
            Removal::Device => format!("ip link delete $({devices} | head -n 1)"),
            Removal::Routes => "ip route flush proto 133".to_owned(),
            Removal::Neighbours => format!(
                "for device in $({devices}); do ip neigh flush nud permanent dev $device; done"
            ),
            // An entry may be gone already: the daemon changes them as well.
            Removal::ForwardingEntries => format!(
                "for device in $({devices}); do bridge fdb show dev $device | \
                 while read mac rest; do bridge fdb delete $mac dev $device || true; done; done"
            ),
            Removal::DeviceDown => format!("ip link set $({devices} | head -n 1) down"),
            // Those of another fault stay.
            Removal::Rules => "nft list tables | grep -v chaos_ | while read table; do \
                 nft delete $table; done"
                .to_owned(),
            // There is none if something has removed them already.
            Removal::GroupRules => "for family in inet bridge; do \
                 nft flush table $family contrail_mesos_groups || true; done"
                .to_owned(),
            Removal::PolicyRules => "ip rule flush protocol 133".to_owned(),
            Removal::Forwarding => "sysctl -qw net.ipv4.ip_forward=0".to_owned(),
        };
        self.cluster.host(node).sh(&script)?;
        Ok(())
    }
}
