//! Begins and ends faults.

use std::time::Duration;

use anyhow::{Context as _, Result};
use contrail_mesos_sim::marathon::events::{EventEffect, EventFault};
use contrail_mesos_sim::vnc::{Effect, Fault as ApiFault};
use nix::sys::signal::Signal;

use super::cut::{Cut, cut, mend};
use super::plan::{ApiHarm, Fault, Harm, MarathonHarm, Role, Side, VrouterHarm};
use super::services::{API_PORT, MARATHON_PORTS, ZOOKEEPER_PORT};
use super::testbed::Testbed;
use crate::testbed::manager::AGENT_PORT;

/// The response times of a slow and of a paused server.
const SLOW_DELAY: Duration = Duration::from_millis(300);
const PAUSED_DELAY: Duration = Duration::from_secs(4);
/// The number of connections of which every second request is performed. Later ones perform none.
const DROPPED_CONNECTIONS: usize = 200;

/// The maximum numbers of repeated and of reordered events.
const DISORDERED_EVENTS: usize = 50;

/// The server of Marathon that leads after this one.
fn next(leader: usize) -> usize {
    (leader + 1) % MARATHON_PORTS.len()
}

/// A fault that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    fault: Fault,
    /// The index of the manager, or of Marathon's server.
    server: usize,
}

impl Testbed {
    /// Begins a fault. `None` if every manager that it could affect has a fault already.
    pub(super) fn begin(&mut self, fault: Fault) -> Result<Option<Active>> {
        let mut server = 0;
        match fault {
            Fault::Manager(role, harm) => {
                let Some(index) = self.role(role) else {
                    return Ok(None);
                };
                server = index;
                self.fail_manager(index, harm)?;
            }
            Fault::ZooKeeper(Harm::Killed) => self.zookeeper.kill()?,
            Fault::ZooKeeper(Harm::Paused) => self.zookeeper.pause()?,
            Fault::ZooKeeper(_) => cut(&self.services, "zookeeper", Cut::At(&[ZOOKEEPER_PORT]))?,
            Fault::Api(harm) => self.fail_api(harm)?,
            Fault::Marathon(harm) => server = self.fail_marathon(harm)?,
            Fault::Mesos(Harm::Killed) => self.cluster.kill_9()?,
            Fault::Mesos(Harm::Paused) => self.cluster.pause()?,
            Fault::Mesos(_) => cut(&self.node, "node", Cut::All)?,
            Fault::Vrouter(VrouterHarm::Gone) => self.vrouter.handle.unplug(),
            Fault::Vrouter(VrouterHarm::Restarted) => self.vrouter.restart()?,
        }
        Ok(Some(Active { fault, server }))
    }

    /// Ends a fault.
    pub(super) fn heal(&mut self, active: Active) -> Result<()> {
        match active.fault {
            Fault::Manager(_, harm) => self.heal_manager(active.server, harm)?,
            Fault::ZooKeeper(Harm::Killed) => self.zookeeper.run()?,
            Fault::ZooKeeper(Harm::Paused) => self.zookeeper.resume()?,
            Fault::ZooKeeper(_) => mend(&self.services, "zookeeper")?,
            Fault::Api(harm) => self.heal_api(harm)?,
            Fault::Marathon(harm) => self.heal_marathon(active.server, harm)?,
            Fault::Mesos(Harm::Killed) => self.cluster.restart()?,
            Fault::Mesos(Harm::Paused) => self.cluster.resume()?,
            Fault::Mesos(_) => mend(&self.node, "node")?,
            Fault::Vrouter(VrouterHarm::Gone) => {
                self.node.block_on(self.vrouter.handle.plug())?;
            }
            Fault::Vrouter(VrouterHarm::Restarted) => {}
        }
        Ok(())
    }

    /// The manager in that role now. If none leads, any manager without a fault.
    fn role(&self, role: Role) -> Option<usize> {
        let leader = self.leader();
        let is_healthy = |index: &usize| !self.managers[*index].faulty;
        let mut all = 0..self.managers.len();
        match role {
            Role::Leader => leader.or_else(|| all.find(is_healthy)),
            Role::Standby => {
                let other = all
                    .clone()
                    .find(|index| is_healthy(index) && Some(*index) != leader);
                other.or_else(|| all.find(is_healthy))
            }
        }
    }

    fn fail_manager(&mut self, index: usize, harm: Harm) -> Result<()> {
        let manager = &mut self.managers[index];
        manager.faulty = true;
        match harm {
            Harm::Killed => manager.process.kill(),
            Harm::Paused => manager.process.signal(Signal::SIGSTOP),
            Harm::CutOff => cut(manager.process.host(), "manager", Cut::All),
            Harm::CutFrom(side) => cut(
                manager.process.host(),
                "manager",
                match side {
                    Side::ZooKeeper => Cut::From(&[ZOOKEEPER_PORT]),
                    Side::Api => Cut::From(&[API_PORT]),
                    Side::Mesos => Cut::From(&[5050]),
                    Side::Marathon => Cut::From(&MARATHON_PORTS),
                    Side::Agents => Cut::At(&[AGENT_PORT]),
                },
            ),
        }
    }

    fn heal_manager(&mut self, index: usize, harm: Harm) -> Result<()> {
        let manager = &mut self.managers[index];
        manager.faulty = false;
        match harm {
            Harm::Killed => manager.process.start(),
            Harm::Paused => manager.process.signal(Signal::SIGCONT),
            Harm::CutOff | Harm::CutFrom(_) => mend(manager.process.host(), "manager"),
        }
    }

    fn fail_api(&self, harm: ApiHarm) -> Result<()> {
        let api = &self.api;
        match harm {
            ApiHarm::Gone => api.unplug(),
            ApiHarm::Slow => api.set_delay(SLOW_DELAY),
            ApiHarm::Refusing => {
                let text = "the database is unreachable".to_owned();
                api.fault(ApiFault::new(Effect::Status(503, text)));
            }
            ApiHarm::FalseErrors => {
                let text = "Internal Server Error".to_owned();
                api.fault(ApiFault::new(Effect::Status(500, text)).performed());
            }
            ApiHarm::Dropping => {
                for _ in 0..DROPPED_CONNECTIONS / 2 {
                    api.fault(ApiFault::new(Effect::Cut).times(0, 1).performed());
                    api.fault(ApiFault::new(Effect::Cut).times(0, 1));
                }
                api.fault(ApiFault::new(Effect::Cut));
            }
            ApiHarm::Paused => api.fault(ApiFault::new(Effect::Delay(PAUSED_DELAY))),
            ApiHarm::CutOff => cut(&self.services, "api", Cut::At(&[API_PORT]))?,
        }
        Ok(())
    }

    fn heal_api(&self, harm: ApiHarm) -> Result<()> {
        match harm {
            ApiHarm::Gone => self.services.block_on(self.api.plug())?,
            ApiHarm::Slow => self.api.set_delay(Duration::ZERO),
            ApiHarm::Refusing | ApiHarm::FalseErrors | ApiHarm::Dropping | ApiHarm::Paused => {
                self.api.clear_faults();
            }
            ApiHarm::CutOff => mend(&self.services, "api")?,
        }
        Ok(())
    }

    /// Returns the index of the leading server.
    fn fail_marathon(&self, harm: MarathonHarm) -> Result<usize> {
        let marathon = self.marathon.handle();
        let leader = marathon.leader().context("Marathon has no leader")?;
        match harm {
            MarathonHarm::LeaderChanged => marathon.set_leader(Some(next(leader))),
            MarathonHarm::NoLeader => marathon.set_leader(None),
            MarathonHarm::LeaderGone => marathon.unplug(leader),
            MarathonHarm::Disordered => {
                marathon.cut_streams();
                for _ in 0..DISORDERED_EVENTS {
                    for effect in [EventEffect::Duplicate, EventEffect::Swap] {
                        marathon.event_fault(EventFault {
                            times: Some(1),
                            ..EventFault::new(effect)
                        });
                    }
                }
            }
            MarathonHarm::Slow => marathon.set_delay(SLOW_DELAY),
            MarathonHarm::Refusing => {
                let text = "<html><h1>500</h1>".to_owned();
                marathon.fault(None, ApiFault::new(Effect::Status(500, text)));
            }
            MarathonHarm::CutOff => cut(&self.services, "marathon", Cut::At(&MARATHON_PORTS))?,
        }
        Ok(leader)
    }

    fn heal_marathon(&self, leader: usize, harm: MarathonHarm) -> Result<()> {
        let marathon = self.marathon.handle();
        match harm {
            MarathonHarm::LeaderChanged => {}
            MarathonHarm::NoLeader => marathon.set_leader(Some(next(leader))),
            MarathonHarm::LeaderGone => self.services.block_on(marathon.plug(leader))?,
            MarathonHarm::Disordered => marathon.clear_event_faults(),
            MarathonHarm::Slow => marathon.set_delay(Duration::ZERO),
            MarathonHarm::Refusing => marathon.clear_faults(),
            MarathonHarm::CutOff => mend(&self.services, "marathon")?,
        }
        Ok(())
    }
}
