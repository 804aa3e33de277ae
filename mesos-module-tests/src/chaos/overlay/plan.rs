//! The plan of a round: faults, tasks and changes of groups, derived from a seed.

use std::fmt;
use std::time::Duration;

use super::NODES;
use super::probes::{CHANGES, CHANGING};
use super::tasks::SLOTS;
use crate::chaos::Role;
use crate::testbed::random::Random;

/// A fault: what is affected, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is affected.
    pub victim: Victim,
    /// How.
    pub harm: Harm,
}

/// What a fault affects. Nodes are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// A manager.
    Manager(Role),
    /// ZooKeeper.
    ZooKeeper,
    /// The node daemon of a node.
    Daemon(usize),
    /// The Mesos agent of a node.
    Agent(usize),
    /// The connection of a node to others.
    Network(usize),
    /// What the node daemon keeps in the kernel of a node.
    Kernel(usize),
}

/// How something is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The process is killed, and started again.
    Killed,
    /// The process is stopped, and continued.
    Frozen,
    /// The cable of the node is pulled.
    CablePulled,
    /// Packets between the node and the managers are dropped.
    CutFromManagers,
    /// Something is removed, at once. The node daemon has to restore it.
    Removed(Removal),
}

/// What is removed from a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A VXLAN device, with all that is on it.
    Device,
    /// The routes to other nodes.
    Routes,
    /// The neighbour entries of other nodes.
    Neighbours,
    /// The forwarding entries of other nodes.
    ForwardingEntries,
    /// A VXLAN device is set down.
    DeviceDown,
    /// All tables of nftables.
    Rules,
    /// What is in the tables that decide about groups.
    GroupRules,
    /// The policy routing rules that close subnets with groups.
    PolicyRules,
    /// Forwarding of packets is switched off.
    Forwarding,
}

const PROCESS: [Harm; 2] = [Harm::Killed, Harm::Frozen];
const NETWORK: [Harm; 2] = [Harm::CablePulled, Harm::CutFromManagers];
const KERNEL: [Harm; 9] = [
    Harm::Removed(Removal::Device),
    Harm::Removed(Removal::Routes),
    Harm::Removed(Removal::Neighbours),
    Harm::Removed(Removal::ForwardingEntries),
    Harm::Removed(Removal::DeviceDown),
    Harm::Removed(Removal::Rules),
    Harm::Removed(Removal::GroupRules),
    Harm::Removed(Removal::PolicyRules),
    Harm::Removed(Removal::Forwarding),
];
/// The number of kinds of victims.
const KINDS: u64 = 7;

impl Victim {
    /// The harms of a kind of victims.
    fn harms(kind: u64) -> &'static [Harm] {
        match kind {
            0..=3 => &PROCESS,
            4 => &PROCESS[..1],
            5 => &NETWORK,
            _ => &KERNEL,
        }
    }

    /// A victim of this kind.
    fn of(kind: u64, random: &mut Random) -> Self {
        let node = usize::try_from(random.below(NODES.into())).unwrap_or_default();
        match kind {
            0 => Self::Manager(Role::Leader),
            1 => Self::Manager(Role::Standby),
            2 => Self::ZooKeeper,
            3 => Self::Daemon(node),
            4 => Self::Agent(node),
            5 => Self::Network(node),
            _ => Self::Kernel(node),
        }
    }

    /// Whether two faults can happen at the same time. An agent cannot be started again while its
    /// host has no connection.
    fn is_compatible(self, other: Self) -> bool {
        !matches!(
            (self, other),
            (Self::Agent(one), Self::Network(another)) | (Self::Network(one), Self::Agent(another))
                if one == another
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.victim {
            Victim::Manager(role) => write!(formatter, "manager {role:?}")?,
            Victim::ZooKeeper => formatter.write_str("ZooKeeper")?,
            Victim::Daemon(node) => write!(formatter, "daemon {}", node + 1)?,
            Victim::Agent(node) => write!(formatter, "agent {}", node + 1)?,
            Victim::Network(node) | Victim::Kernel(node) => write!(formatter, "node {}", node + 1)?,
        }
        match self.harm {
            Harm::Removed(removal) => write!(formatter, " {removal:?} removed"),
            harm => write!(formatter, " {harm:?}"),
        }
    }
}

/// A step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The fault with this index begins.
    Begin(usize),
    /// The fault with this index ends.
    End(usize),
    /// The task in a slot is to run, or not to run.
    Task { slot: usize, runs: bool },
    /// The probe that changes its groups gets these.
    Groups(&'static [&'static str]),
}

/// A round.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) faults: Vec<Fault>,
    /// The steps, with their times since the start, in order.
    pub(super) steps: Vec<(Duration, Step)>,
}

impl Plan {
    /// One to three faults, and changes of tasks at the same time.
    pub(super) fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = 1 + random.below(3);
        let mut kinds: Vec<u64> = (0..KINDS).collect();
        let mut faults: Vec<Fault> = vec![];
        for _ in 0..count {
            let kind = *random.pick(&kinds);
            kinds.retain(|other| *other != kind);
            let harm = *random.pick(Victim::harms(kind));
            add(&mut faults, kind, harm, &mut random);
        }
        Self::of(faults, &mut random)
    }

    /// Rounds that together have every harm of every kind of victims.
    pub(super) fn covering(seed: u64) -> Vec<Self> {
        let mut random = Random::new(seed);
        let rounds = (0..KINDS).map(|kind| Victim::harms(kind).len()).max();
        (0..rounds.unwrap_or_default())
            .map(|round| {
                let mut faults = vec![];
                for kind in 0..KINDS {
                    if let Some(harm) = Victim::harms(kind).get(round) {
                        add(&mut faults, kind, *harm, &mut random);
                    }
                }
                Self::of(faults, &mut random)
            })
            .collect()
    }

    fn of(faults: Vec<Fault>, random: &mut Random) -> Self {
        let mut steps = vec![];
        for (index, fault) in faults.iter().enumerate() {
            let begin = random.below(1500);
            steps.push((begin, Step::Begin(index)));
            // The longest exceed the managers' session timeout.
            let length = 500 + random.below(3500);
            if !matches!(fault.harm, Harm::Removed(_)) {
                steps.push((begin + length, Step::End(index)));
            }
        }
        for _ in 0..2 + random.below(4) {
            let slot = usize::try_from(random.below(SLOTS.len() as u64)).unwrap_or_default();
            let runs = random.below(3) > 0;
            steps.push((random.below(3500), Step::Task { slot, runs }));
        }
        if random.below(2) == 0 {
            let groups = random.pick(&CHANGES);
            steps.push((random.below(3500), Step::Groups(groups)));
        }
        steps.sort_by_key(|(at, _)| *at);
        let at = |(at, step)| (Duration::from_millis(at), step);
        Self {
            faults,
            steps: steps.into_iter().map(at).collect(),
        }
    }

    /// The faults, for people.
    pub(super) fn title(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        faults.join(" + ")
    }

    pub(super) fn step(&self, step: Step) -> String {
        match step {
            Step::Begin(index) => format!("{} begins", self.faults[index]),
            Step::End(index) => format!("{} ends", self.faults[index]),
            Step::Task { slot, runs: true } => format!("a task in slot {slot}"),
            Step::Task { slot, runs: false } => format!("no task in slot {slot}"),
            Step::Groups(groups) => format!("{CHANGING} changes to the groups {groups:?}"),
        }
    }
}

/// Adds a fault that is compatible with the others.
fn add(faults: &mut Vec<Fault>, kind: u64, harm: Harm, random: &mut Random) {
    loop {
        let victim = Victim::of(kind, random);
        let mut others = faults.iter();
        if others.all(|other| victim.is_compatible(other.victim)) {
            faults.push(Fault { victim, harm });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_is_decided_by_its_seed_and_covers_every_fault() {
        let text = |seed| format!("{:?}", Plan::random(seed));
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
        let names = |plans: Vec<Plan>| -> Vec<String> {
            let faults = plans.into_iter().flat_map(|plan| plan.faults);
            faults.map(|fault| fault.to_string()).collect()
        };
        let random = names((0..3000).map(Plan::random).collect());
        let covering = names(Plan::covering(1));
        let mut chooser = Random::new(1);
        for kind in 0..KINDS {
            for harm in Victim::harms(kind) {
                let victim = Victim::of(kind, &mut chooser);
                let fault = Fault {
                    victim,
                    harm: *harm,
                };
                assert!(random.contains(&fault.to_string()), "never random: {fault}");
                // The covering rounds have each harm, at any node.
                let end = fault.to_string();
                let end = end.rsplit_once(' ').map_or("", |(_, end)| end);
                assert!(
                    covering.iter().any(|fault| fault.ends_with(end)),
                    "not covered: {fault}"
                );
            }
        }
    }

    #[test]
    fn agent_without_a_network_is_not_restarted() {
        for plan in (0..3000).map(Plan::random).chain(Plan::covering(3)) {
            let has = |victim| plan.faults.iter().any(|fault| fault.victim == victim);
            for node in 0..NODES.into() {
                assert!(!(has(Victim::Agent(node)) && has(Victim::Network(node))));
            }
        }
    }
}
