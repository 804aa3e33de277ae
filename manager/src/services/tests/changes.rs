//! What one change of a large cluster makes: only what it touches.

use tokio::time::Instant;

use super::super::index::{ServiceChanges, ServiceIndex};
use super::fixture::{TaskSpec, classification, text, view, web};
use crate::mesos_master::{Change, Status, TaskKey};
use crate::stores::mesos::MesosView;
use crate::stores::touched::Touched;
use crate::task_state::TaskState;

const SERVICES: usize = 500;
const TASKS: usize = 3 * SERVICES;

fn large() -> (MesosView, ServiceIndex) {
    let tasks: Vec<TaskSpec> = (0..TASKS)
        .map(|number| {
            let service = number % SERVICES;
            let address = format!("10.0.{}.{}", number / 250, number % 250 + 1);
            web()
                .id(&format!("t{number}"))
                .name(&format!("app{service}"))
                .on("overlay", &[&address])
                .container_vip(8080, &format!("/app{service}:80"), "overlay")
                .checked(Some(true))
        })
        .collect();
    let view = view(&tasks);
    let mut index = ServiceIndex::default();
    let changes = index.apply(&view, &classification(), [Touched::All]);
    assert_eq!(
        (changes.services.len(), changes.task_names.len()),
        (SERVICES, SERVICES)
    );
    (view, index)
}

fn update(
    (view, index): &mut (MesosView, ServiceIndex),
    state: TaskState,
    healthy: bool,
) -> ServiceChanges {
    let change = Change::TaskUpdated {
        key: TaskKey {
            framework: "F".into(),
            task: "t7".into(),
        },
        agent: None,
        executor: None,
        status: Box::new(Status {
            state,
            healthy: Some(healthy),
            ..Status::default()
        }),
    };
    let touched = Touched::of(&change);
    view.apply_change(change, Instant::now());
    index.apply(view, &classification(), [touched])
}

#[test]
fn change_of_one_task_builds_its_service_and_its_name_only() {
    let mut cluster = large();
    // What is repeated changes nothing.
    let changes = update(&mut cluster, TaskState::Running, true);
    assert_eq!(changes, ServiceChanges::default());

    let changes = update(&mut cluster, TaskState::Running, false);
    assert!(changes.task_names.is_empty() && !changes.problems);
    let mut services = changes.services.into_iter();
    let (key, service) = services.next().unwrap();
    assert_eq!(key.to_string(), "app7.marathon:80/tcp");
    let backends = service.unwrap().backends;
    let backends: Vec<String> = backends
        .iter()
        .map(|backend| text(&backend.backend))
        .collect();
    assert_eq!(
        backends,
        ["10.0.0.8:8080 draining", "10.0.2.8:8080", "10.0.4.8:8080"]
    );
    assert_eq!(services.len(), 0);

    let changes = update(&mut cluster, TaskState::Killing, false);
    assert!(changes.services.is_empty());
    let names: Vec<_> = changes.task_names.iter().collect();
    let [(name, Some(instances))] = &*names else {
        panic!("{names:?}");
    };
    assert_eq!(
        (name.as_str(), instances.instances.len()),
        ("app7.marathon", 2)
    );

    let changes = update(&mut cluster, TaskState::Killed, false);
    assert_eq!((changes.services.len(), changes.task_names.len()), (1, 0));
}

#[test]
fn service_and_name_end_with_their_last_task() {
    let mut view = view(&[web().vip(31000, "/web:80").vip(31000, "/web")]);
    let mut index = ServiceIndex::default();
    let changes = index.apply(&view, &classification(), [Touched::All]);
    assert!(changes.problems && changes.services.values().all(Option::is_some));
    let gone = Change::FrameworkRemoved("F".into());
    let touched = Touched::of(&gone);
    view.apply_change(gone, Instant::now());
    let changes = index.apply(&view, &classification(), [touched]);
    assert!(changes.services.len() == 1 && changes.services.values().all(Option::is_none));
    assert!(changes.task_names.len() == 1 && changes.task_names.values().all(Option::is_none));
    assert!(changes.problems && index.problems(&view, &classification()).is_empty());
    assert!(index.is_empty());
}
