//! How containers that live are to be.

use super::*;

#[test]
fn a_container_is_called_as_its_task_is_and_linked_to_its_host() {
    let mut scene = Scene::new();
    scene.ours().routers = Box::default();
    let mut own = task("evil\n\"name\u{ffff}", "S1", Some(scene.machine));
    own.executor = Some("instance-shop_pod.0bcd1234-c7a5-11ea-8f39-0242ac110002".into());
    scene.list(1, state(vec![other(), own], agents()));
    let keep = scene.keep(2);
    assert_eq!(
        &*keep.display_name,
        "shop_pod.instance-0bcd1234-c7a5-11ea-8f39-0242ac110002"
    );
    assert_eq!(
        keep.names.task.as_deref(),
        Some("evil\u{fffd}\"name\u{fffd}")
    );
    assert_eq!(keep.names.mesos_agent.as_deref(), Some("S1"));
    assert_eq!(keep.names.framework.as_deref(), Some("marathon"));
    let router = machine(500);
    let ours = &scene.contrail.machines[&scene.machine];
    assert_eq!(
        differences(&keep, ours),
        [Difference::Names, Difference::Link(router)]
    );
    // What is written is what is read, and then all is well.
    let ours = scene.ours();
    ours.names = keep.names;
    ours.display_name = Some(keep.display_name);
    ours.routers = Box::new([router]);
    let keep = scene.keep(2);
    assert_eq!(
        differences(&keep, &scene.contrail.machines[&scene.machine]),
        []
    );
    // A virtual-router that has registered under another name is known by its address.
    scene.contrail.routers.remove("node1");
    assert_eq!(scene.keep(2).router, None);
    let other_name = Router {
        uuid: machine(502),
        address: "10.0.0.1".parse().ok(),
    };
    scene.contrail.routers.insert("n1".into(), other_name);
    let mut with_address = agents();
    with_address[0].address = "10.0.0.1".parse().ok();
    let own = task(TASK, "S1", Some(scene.machine));
    scene.list(3, state(vec![other(), own], with_address));
    assert_eq!(scene.keep(4).router, Some(machine(502)));
}

#[test]
fn labels_are_believed_of_tasks_that_marathon_lists() {
    let labels = [
        ("security-groups", "web"),
        ("floating-ips", "d:p:public:pool(10.66.77.123)"),
    ];
    let mut scene = Scene::new();
    let own = task(TASK, "S1", Some(scene.machine));
    scene.list(1, state(vec![other(), own.clone()], agents()));
    scene.marathon(1, listing(vec![app(&labels, &[TASK])]));
    let keep = scene.keep(2);
    let [wanted] = &keep.interfaces[..] else {
        panic!("{keep:?}")
    };
    assert_eq!(
        wanted.groups()[0].to_string(),
        "default-domain:mesos-default:web"
    );
    let interface = wanted.interface;
    let ours = &scene.contrail.machines[&scene.machine];
    assert_eq!(
        differences(&keep, ours)[1..],
        [
            Difference::Groups(interface),
            Difference::Floating(interface)
        ]
    );
    let none = |change: &dyn Fn(&mut Scene)| {
        let mut scene = Scene::new();
        scene.list(1, state(vec![other(), own.clone()], agents()));
        scene.marathon(1, listing(vec![app(&labels, &[TASK])]));
        change(&mut scene);
        let keep = scene.keep(2);
        assert_eq!(keep.interfaces, []);
        keep
    };
    none(&|scene| scene.marathon(2, listing(vec![app(&labels, &[])])));
    none(&|scene| scene.marathon.lost(scene.at(2), "refused"));
    none(&|scene| scene.policy.framework = "marathon-2".into());
    none(&|scene| scene.ours().interfaces[0].network = Some("another".into()));
    none(&|scene| scene.ours().interfaces[0].network = None);
    let nonsense = [("floating-ips", "nonsense")];
    let keep = none(&|scene| scene.marathon(2, listing(vec![app(&nonsense, &[TASK])])));
    assert_eq!(keep.problems.len(), 1);
    // What of an app cannot be read stays as it was, and is not believed meanwhile.
    none(&|scene| {
        let mut listing = listing(vec![]);
        listing.skipped.push(Skipped {
            kind: "app",
            id: Some("/shop/web".into()),
            problem: "null".into(),
        });
        scene.marathon(2, listing);
    });
}

#[test]
fn a_pod_is_kept_until_its_last_task_ends() {
    let mut scene = Scene::new();
    let nested = |id: &str, inner: &str| {
        let mut task = task(id, "S1", None);
        task.status.container = Some(format!("{}.{inner}", machine(1)).into());
        task
    };
    scene.list(
        1,
        state(vec![other(), nested("a", "x"), nested("b", "y")], agents()),
    );
    for id in ["a", "b"] {
        assert!(matches!(scene.fate(700), Fate::Keep(_)));
        let key = nested(id, "x").key;
        let status = Box::new(Status {
            state: TaskState::Finished,
            ..Status::default()
        });
        let change = Change::TaskUpdated {
            key,
            agent: None,
            executor: None,
            status,
        };
        let touched = scene.mesos.apply(change, scene.at(2));
        assert!(touched.contains(&scene.machine));
    }
    assert_eq!(scene.fate(700), Fate::Unknown(Doubt::NotListedSince));
}
