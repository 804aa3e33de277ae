//! How far the absence of a task in the list of Mesos can be trusted.
//!
//! Invariants: nothing is withdrawn while Mesos is not followed, or after a list that is incomplete or has
//! shrunk suddenly. After a failover of the masters, what ran on an agent that has not registered again
//! is not withdrawn, for [`MAX_AGENT_WAIT`] at most, and for [`SETTLE_TIME`] after it is back: its tasks
//! follow one by one. Ages are measured on this machine.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;

use crate::stores::mesos::MesosView;

/// How long an agent is waited for: as long as the masters wait for it to register again.
pub(super) const MAX_AGENT_WAIT: Duration = Duration::from_mins(10);
/// How long an agent that is back may take to report its tasks.
pub(super) const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Whether what is missing is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Mesos is not followed: nothing is known of what has changed.
    Lost,
    /// Nothing that is missing is gone.
    Additions,
    /// What is missing is gone, except what was on hosts with these addresses.
    Except(BTreeSet<IpAddr>),
}

impl Trust {
    /// Whether everything that is missing is gone.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Except(hosts) if hosts.is_empty())
    }

    /// Whether something that was on this host is gone if it is missing.
    pub(super) fn may_withdraw(&self, host: IpAddr) -> bool {
        matches!(self, Self::Except(hosts) if !hosts.contains(&host))
    }
}

/// An agent whose tasks may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AwaitedAgent {
    address: Option<IpAddr>,
    /// Since when it has not been registered.
    since: Instant,
    /// Since when it is back.
    back: Option<Instant>,
}

/// What is known of one agent.
#[derive(Clone, Debug)]
struct AgentState {
    id: ArcStr,
    address: Option<IpAddr>,
    is_active: bool,
    /// When it registered, if that was after the last list: the list does not have its tasks.
    back: Option<Instant>,
}

/// The agents whose tasks may be missing.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentTrust {
    awaited: HashMap<ArcStr, AwaitedAgent>,
}

impl AgentTrust {
    /// How far the state of Mesos can be trusted now, and when that may change without an event.
    pub(super) fn observe(&mut self, view: &MesosView, now: Instant) -> (Trust, Option<Instant>) {
        if !view.source.is_fresh() {
            return (Trust::Lost, None);
        }
        let listed = view.source.last_listed();
        let agents = view.agents().map(|agent| AgentState {
            id: agent.id.clone(),
            // As that of backends.
            address: agent.address.map(|address| address.to_canonical()),
            back: view
                .connected_since(&agent.id)
                .filter(|at| listed.is_some_and(|listed| *at > listed)),
            // One that an operator has deactivated is not active either, but its tasks are known.
            is_active: !agent.is_recovered,
        });
        // What the tasks of agents that came back declare is not known yet.
        let is_trusted = view.source.trusted_since().is_some() && !view.has_undefined_tasks();
        self.decide(is_trusted, agents, now)
    }

    fn decide(
        &mut self,
        is_trusted: bool,
        agents: impl Iterator<Item = AgentState>,
        now: Instant,
    ) -> (Trust, Option<Instant>) {
        let before = std::mem::take(&mut self.awaited);
        for AgentState {
            id,
            address,
            is_active,
            back,
        } in agents
        {
            let known = before.get(&id).copied();
            if !is_active {
                // One that was given up stays given up until it is back.
                let since = known.filter(|known| known.back.is_none());
                let since = since.map_or(now, |known| known.since);
                let awaited = AwaitedAgent {
                    address,
                    since,
                    back: None,
                };
                self.awaited.insert(id, awaited);
            // It may have been listed as away and have come back between two observations.
            } else if let Some(known) = known.or(back.map(|back| AwaitedAgent {
                address,
                since: back,
                back: Some(back),
            })) {
                let back = known.back.unwrap_or(now);
                if now < back + SETTLE_TIME {
                    let awaited = AwaitedAgent {
                        address,
                        back: Some(back),
                        ..known
                    };
                    self.awaited.insert(id, awaited);
                }
            }
        }
        let ends = |awaited: &AwaitedAgent| match awaited.back {
            Some(back) => back + SETTLE_TIME,
            None => awaited.since + MAX_AGENT_WAIT,
        };
        let current = || self.awaited.values().filter(|awaited| ends(awaited) > now);
        let next = current().map(ends).min();
        let mut hosts = BTreeSet::new();
        for awaited in current() {
            match awaited.address {
                Some(address) => drop(hosts.insert(address)),
                None => return (Trust::Additions, next),
            }
        }
        if is_trusted {
            (Trust::Except(hosts), next)
        } else {
            (Trust::Additions, next)
        }
    }

    /// How many agents are waited for.
    pub(super) fn awaited(&self, now: Instant) -> usize {
        let is_awaited = |awaited: &&AwaitedAgent| {
            awaited.back.is_some() || awaited.since + MAX_AGENT_WAIT > now
        };
        self.awaited.values().filter(is_awaited).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesos_master::{Agent, Change, State};

    fn agent(number: u8, is_active: bool) -> AgentState {
        AgentState {
            id: format!("S{number}").into(),
            address: Some([192, 0, 2, number].into()),
            is_active,
            back: None,
        }
    }

    fn hosts(numbers: &[u8]) -> Trust {
        let addresses = numbers.iter().map(|number| [192, 0, 2, *number].into());
        Trust::Except(addresses.collect())
    }

    #[test]
    fn agent_of_an_earlier_leader_is_waited_for() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut trust = AgentTrust::default();
        let all = |active: [bool; 2]| [agent(1, active[0]), agent(2, active[1])].into_iter();
        assert_eq!(
            trust.decide(true, all([true, true]), at(0)),
            (hosts(&[]), None)
        );
        // Another master leads, and knows both from its registry.
        let end = Some(at(1) + MAX_AGENT_WAIT);
        assert_eq!(
            trust.decide(true, all([false, false]), at(1)),
            (hosts(&[1, 2]), end)
        );
        let (now, next) = trust.decide(true, all([true, false]), at(5));
        assert_eq!((now, next), (hosts(&[1, 2]), Some(at(5) + SETTLE_TIME)));
        assert_eq!(trust.awaited(at(5)), 2);
        assert_eq!(
            trust.decide(true, all([true, false]), at(14)).0,
            hosts(&[1, 2])
        );
        assert_eq!(
            trust.decide(true, all([true, false]), at(15)),
            (hosts(&[2]), end)
        );
        // It is not waited for again because it is still not there.
        assert_eq!(
            trust.decide(true, all([true, false]), at(601)),
            (hosts(&[]), None)
        );
        assert_eq!(
            trust.decide(true, all([true, false]), at(602)),
            (hosts(&[]), None)
        );
        assert_eq!(trust.awaited(at(602)), 0);
        assert_eq!(
            trust.decide(true, all([true, true]), at(603)).0,
            hosts(&[2])
        );
        assert_eq!(trust.decide(true, all([true, true]), at(613)).0, hosts(&[]));
    }

    #[test]
    fn agent_that_masters_have_removed_is_not_waited_for() {
        let now = Instant::now();
        let mut trust = AgentTrust::default();
        let (found, _) = trust.decide(true, [agent(1, false)].into_iter(), now);
        assert_eq!(found, hosts(&[1]));
        assert!(!found.is_full() && !found.may_withdraw([192, 0, 2, 1].into()));
        assert!(found.may_withdraw([192, 0, 2, 2].into()));
        assert_eq!(trust.decide(true, [].into_iter(), now), (hosts(&[]), None));
    }

    /// A view whose list has an agent with this address, registered or not.
    fn view(address: &str, active: bool, now: Instant) -> MesosView {
        let mut view = MesosView::default();
        let agent = listed_agent(address, active);
        let state = State {
            agents: [(agent.id.clone(), agent)].into(),
            ..State::default()
        };
        view.apply_snapshot(state, now, Duration::ZERO);
        view
    }

    fn listed_agent(address: &str, active: bool) -> Agent {
        Agent {
            id: "S1".into(),
            host: "node1".into(),
            address: address.parse().ok(),
            active,
            attributes: Box::default(),
            is_recovered: !active,
        }
    }

    #[test]
    fn agent_that_is_back_between_two_observations_may_report_its_tasks() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut view = view("192.0.2.1", false, at(0));
        let back = Change::AgentAdded(Box::new(listed_agent("192.0.2.1", true)));
        view.apply_change(back, at(1));
        let mut trust = AgentTrust::default();
        let settled = at(1) + SETTLE_TIME;
        assert_eq!(trust.observe(&view, at(2)), (hosts(&[1]), Some(settled)));
        assert_eq!(trust.observe(&view, settled), (hosts(&[]), None));
        assert_eq!(trust.observe(&view, at(60)), (hosts(&[]), None));
    }

    #[test]
    fn address_of_an_awaited_agent_is_that_of_its_backends() {
        let now = Instant::now();
        let view = view("::ffff:192.0.2.1", false, now);
        assert_eq!(AgentTrust::default().observe(&view, now).0, hosts(&[1]));
    }

    #[test]
    fn list_that_is_not_trusted_withdraws_nothing() {
        let now = Instant::now();
        let mut trust = AgentTrust::default();
        let (found, _) = trust.decide(false, [agent(1, true)].into_iter(), now);
        assert_eq!(found, Trust::Additions);
        assert!(!found.is_full() && !found.may_withdraw([192, 0, 2, 1].into()));
        // Nor does an agent without an address: nobody knows what was on it.
        let unknown = AgentState {
            address: None,
            ..agent(1, false)
        };
        let (found, _) = trust.decide(true, [unknown].into_iter(), now);
        assert_eq!(found, Trust::Additions);
        assert_eq!(
            trust.observe(&MesosView::default(), now),
            (Trust::Lost, None)
        );
    }
}
