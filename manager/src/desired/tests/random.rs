//! Random updates in random order.

use proptest::prelude::*;

use super::*;

/// What may happen between two decisions.
#[derive(Clone, Debug)]
enum Step {
    List {
        missing: Vec<bool>,
        partial: bool,
        agents: u8,
    },
    Lost,
    Ended(u8),
    AgentRemoved(u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (
            prop::collection::vec(any::<bool>(), 4),
            any::<bool>(),
            0..4_u8
        )
            .prop_map(|(missing, partial, agents)| Step::List {
                missing,
                partial,
                agents
            }),
        Just(Step::Lost),
        (0..4_u8).prop_map(Step::Ended),
        (0..3_u8).prop_map(Step::AgentRemoved),
        (1..5000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..24)
}

fn id(number: u128) -> String {
    TASK.replace("0bcd1234", &format!("0bcd123{number}"))
}

proptest! {
    #[test]
    fn container_of_a_fresh_source_is_never_deleted(steps in steps(), listed in prop::collection::vec(any::<bool>(), 4)) {
        let mut fixture = Fixture::new();
        let template = fixture.contrail.vms[&fixture.vm].clone();
        fixture.contrail.vms = (0..4).map(|number| {
            let mut ours = template.clone();
            ours.identity.task = Some(id(number).into());
            (vm_uuid(number), ours)
        }).collect();
        let ids: Vec<String> = (0..4).filter(|at| listed[*at as usize]).map(id).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut now = 1;
        fixture.marathon(0, listing(vec![app(&[], &ids)]));
        let mut lists = 0;
        for step in steps {
            match step {
                Step::List { missing, partial, agents } => {
                    let tasks = (0..4).filter(|at| !missing[*at as usize]);
                    let tasks = tasks.map(|at| task(&id(at), "S1", Some(vm_uuid(at))));
                    let agents = super::agents().into_iter().take(agents.into()).collect();
                    let mut state = state(tasks.collect(), agents);
                    if partial {
                        state.skipped.push(crate::mesos_master::Skipped { kind: "task", problem: "x".into() });
                    }
                    fixture.list(now, state);
                    lists += 1;
                }
                Step::Lost => {
                    fixture.mesos.mark_lost(fixture.at(now), "lost");
                    lists = 0;
                }
                Step::Ended(at) => {
                    let key = task(&id(at.into()), "S1", None).key;
                    let status = Status { state: TaskState::Killed, ..Status::default() };
                    let change = Change::TaskUpdated { key, agent: None, executor: None, status: Box::new(status) };
                    fixture.mesos.apply_change(change, fixture.at(now));
                }
                Step::AgentRemoved(at) => {
                    let change = Change::AgentRemoved(format!("S{at}").into());
                    fixture.mesos.apply_change(change, fixture.at(now));
                }
                Step::Wait(seconds) => now += seconds,
            }
            for number in 0..4 {
                let uuid = vm_uuid(number);
                let fate = decide(&fixture.snapshot(now), uuid, &fixture.contrail.vms[&uuid], None);
                if matches!(fate, Decision::Delete(_)) {
                    prop_assert!(fixture.mesos.task_of(uuid).is_none(), "Mesos lists it");
                    prop_assert!(!listed[usize::try_from(number).unwrap()], "Marathon lists it");
                    prop_assert!(fixture.mesos.source.is_fresh() && now >= 600);
                    prop_assert!(lists > 0 || fixture.mesos.source.last_listed() == Some(fixture.start));
                }
            }
        }
        // A state that lasts is decided at last.
        let alive = || state(vec![other(), task(&id(0), "S1", Some(vm_uuid(0)))], agents());
        for at in [1, 100, 10_000, 20_000] {
            fixture.list(now + at, alive());
        }
        fixture.marathon(now, listing(vec![app(&[], &[&id(0)])]));
        for number in 0..4 {
            let uuid = vm_uuid(number);
            let fate = decide(&fixture.snapshot(now + 20_001), uuid, &fixture.contrail.vms[&uuid], None);
            if number == 0 {
                prop_assert!(matches!(fate, Decision::Keep(_)), "{fate:?}");
            } else {
                prop_assert_eq!(fate, Decision::Delete(DeleteReason::NotOnAgent));
            }
        }
    }
}
