//! The plan of a round: faults and changes, derived from a seed.

use std::fmt;
use std::time::Duration;

use super::apps::{APPS, App};
use crate::testbed::random::Random;

/// A fault: what is affected, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A manager.
    Manager(Role, Harm),
    /// ZooKeeper.
    ZooKeeper(Harm),
    /// The API server.
    Api(ApiHarm),
    /// Marathon.
    Marathon(MarathonHarm),
    /// Master and agent, which are one process.
    Mesos(Harm),
    /// The vRouter agent.
    Vrouter(VrouterHarm),
}

/// The role of a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The manager that leads when the fault begins.
    Leader,
    /// The other manager.
    Standby,
}

/// A fault of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Killed, and started again.
    Killed,
    /// Stopped, and continued.
    Paused,
    /// Its host is disconnected from all others.
    CutOff,
    /// Disconnected from one peer only.
    CutFrom(Side),
}

/// A peer of a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// ZooKeeper.
    ZooKeeper,
    /// The API server.
    Api,
    /// Mesos.
    Mesos,
    /// Marathon.
    Marathon,
    /// The agents, which send it requests.
    Agents,
}

/// A fault of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiHarm {
    /// It accepts no connection.
    Gone,
    /// Each response is delayed.
    Slow,
    /// It returns errors and performs no request.
    Refusing,
    /// It returns errors but performs every request.
    FalseErrors,
    /// Connections end without a response. Every second request is performed.
    Dropping,
    /// It responds only after the fault has ended.
    Paused,
    /// Packets do not reach it.
    CutOff,
}

/// A fault of Marathon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarathonHarm {
    /// Another server becomes the leader.
    LeaderChanged,
    /// No server leads.
    NoLeader,
    /// The leading server cannot be reached, and no other takes over.
    LeaderGone,
    /// Event streams end, and events are repeated and reordered.
    Disordered,
    /// Each response is delayed.
    Slow,
    /// It returns errors.
    Refusing,
    /// Packets do not reach its servers.
    CutOff,
}

/// A fault of the vRouter agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VrouterHarm {
    /// It accepts no connection.
    Gone,
    /// It is stopped, with its data path, and started again.
    Restarted,
}

const MANAGER: [Harm; 8] = [
    Harm::Killed,
    Harm::Paused,
    Harm::CutOff,
    Harm::CutFrom(Side::ZooKeeper),
    Harm::CutFrom(Side::Api),
    Harm::CutFrom(Side::Mesos),
    Harm::CutFrom(Side::Marathon),
    Harm::CutFrom(Side::Agents),
];
const PROCESS: [Harm; 3] = [Harm::Killed, Harm::Paused, Harm::CutOff];
const API: [ApiHarm; 7] = [
    ApiHarm::Gone,
    ApiHarm::Slow,
    ApiHarm::Refusing,
    ApiHarm::FalseErrors,
    ApiHarm::Dropping,
    ApiHarm::Paused,
    ApiHarm::CutOff,
];
const MARATHON: [MarathonHarm; 7] = [
    MarathonHarm::LeaderChanged,
    MarathonHarm::NoLeader,
    MarathonHarm::LeaderGone,
    MarathonHarm::Disordered,
    MarathonHarm::Slow,
    MarathonHarm::Refusing,
    MarathonHarm::CutOff,
];
const VROUTER: [VrouterHarm; 2] = [VrouterHarm::Gone, VrouterHarm::Restarted];
/// The number of parts that faults affect.
const VICTIMS: u64 = 7;

impl Fault {
    /// All faults of one of the [`VICTIMS`].
    fn of(victim: u64) -> Vec<Self> {
        let manager = |role| MANAGER.map(|harm| Self::Manager(role, harm)).to_vec();
        match victim {
            0 => manager(Role::Leader),
            1 => manager(Role::Standby),
            2 => PROCESS.map(Self::ZooKeeper).to_vec(),
            3 => API.map(Self::Api).to_vec(),
            4 => MARATHON.map(Self::Marathon).to_vec(),
            5 => PROCESS.map(Self::Mesos).to_vec(),
            _ => VROUTER.map(Self::Vrouter).to_vec(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager(role, harm) => write!(formatter, "{role:?} {harm:?}"),
            Self::ZooKeeper(harm) => write!(formatter, "ZooKeeper {harm:?}"),
            Self::Api(harm) => write!(formatter, "API {harm:?}"),
            Self::Marathon(harm) => write!(formatter, "Marathon {harm:?}"),
            Self::Mesos(harm) => write!(formatter, "Mesos {harm:?}"),
            Self::Vrouter(harm) => write!(formatter, "vRouter {harm:?}"),
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
    /// Sets the number of instances of an app.
    Scale(App, u64),
    /// Sets the labels of an app; see [`App::labels`].
    Relabel(App, u64),
}

/// A round.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) faults: Vec<Fault>,
    /// The steps, with their times since the start, in order.
    pub(super) steps: Vec<(Duration, Step)>,
}

impl Plan {
    /// One or two faults, and changes of apps at the same time.
    pub(super) fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = 1 + random.below(2);
        let mut victims: Vec<u64> = (0..VICTIMS).collect();
        let mut faults = vec![];
        for _ in 0..count {
            let victim = *random.pick(&victims);
            victims.retain(|other| *other != victim);
            faults.push(*random.pick(&Fault::of(victim)));
        }
        Self::of(faults, &mut random)
    }

    /// Rounds that together have every fault.
    pub(super) fn covering(seed: u64) -> Vec<Self> {
        let mut random = Random::new(seed);
        let all: Vec<Vec<Fault>> = (0..VICTIMS).map(Fault::of).collect();
        let rounds = all.iter().map(Vec::len).max().unwrap_or_default();
        (0..rounds)
            .map(|round| {
                let faults = all.iter().filter_map(|faults| faults.get(round).copied());
                Self::of(faults.collect(), &mut random)
            })
            .collect()
    }

    fn of(faults: Vec<Fault>, random: &mut Random) -> Self {
        let mut steps = vec![];
        for index in 0..faults.len() {
            let begin = random.below(2000);
            // The longest exceed the managers' session timeout.
            let length = 1500 + random.below(4000);
            steps.push((begin, Step::Begin(index)));
            steps.push((begin + length, Step::End(index)));
        }
        for _ in 0..3 + random.below(4) {
            let app = *random.pick(&APPS);
            let step = if random.below(3) == 0 {
                Step::Relabel(app, random.below(app.labels()))
            } else {
                Step::Scale(app, random.below(app.max_instances() + 1))
            };
            steps.push((random.below(5000), step));
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
            Step::Scale(app, count) => format!("{} to {count} instances", app.id()),
            Step::Relabel(app, labels) => format!("{} to labels {labels}", app.id()),
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
        let random: Vec<Fault> = (0..2000)
            .flat_map(|seed| Plan::random(seed).faults)
            .collect();
        let covered: Vec<Fault> = Plan::covering(1)
            .into_iter()
            .flat_map(|plan| plan.faults)
            .collect();
        for fault in (0..VICTIMS).flat_map(Fault::of) {
            assert!(random.contains(&fault), "no random plan has {fault}");
            assert!(covered.contains(&fault), "no covering plan has {fault}");
        }
    }
}
