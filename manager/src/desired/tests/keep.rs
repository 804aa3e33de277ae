//! The desired state of containers that are kept.

use super::*;

#[test]
fn container_is_named_after_its_task_and_linked() {
    let mut fixture = Fixture::new();
    fixture.ours().routers = Box::default();
    let mut own = task("evil\n\"name\u{ffff}", "S1", Some(fixture.vm));
    own.executor = Some("instance-shop_pod.0bcd1234-c7a5-11ea-8f39-0242ac110002".into());
    fixture.list(1, state(vec![other(), own], agents()));
    let desired = fixture.desired(2);
    let names = desired.names.clone().unwrap();
    assert_eq!(
        &*names.display_name,
        "shop_pod.instance-0bcd1234-c7a5-11ea-8f39-0242ac110002"
    );
    let identity = names.identity;
    assert_eq!(identity.task.as_deref(), Some("evil\u{fffd}\"name\u{fffd}"));
    assert_eq!(identity.mesos_agent.as_deref(), Some("S1"));
    assert_eq!(identity.framework.as_deref(), Some("marathon"));
    let router = vm_uuid(500);
    let ours = &fixture.contrail.vms[&fixture.vm];
    assert_eq!(
        diff(Actual::cached(ours), &desired),
        [diff::Change::SetNames, diff::Change::Link(router)]
    );
    // Once the names are written, nothing differs.
    let ours = fixture.ours();
    ours.identity = identity;
    ours.display_name = Some(names.display_name);
    ours.routers = Box::new([router]);
    let desired = fixture.desired(2);
    assert_eq!(
        diff(Actual::cached(&fixture.contrail.vms[&fixture.vm]), &desired),
        []
    );
    // A virtual-router of another name is found by its address.
    fixture.contrail.routers.remove("node1");
    assert_eq!(fixture.desired(2).router, None);
    let other_name = Router {
        uuid: vm_uuid(502),
        address: "10.0.0.1".parse().ok(),
    };
    fixture.contrail.routers.insert("n1".into(), other_name);
    let mut with_address = agents();
    with_address[0].address = "10.0.0.1".parse().ok();
    let own = task(TASK, "S1", Some(fixture.vm));
    fixture.list(3, state(vec![other(), own], with_address));
    assert_eq!(fixture.desired(4).router, Some(vm_uuid(502)));
}

#[test]
fn labels_apply_only_to_tasks_that_marathon_lists() {
    let labels = [
        ("security-groups", "web"),
        ("floating-ips", "d:p:public:pool(10.66.77.123)"),
    ];
    let mut fixture = Fixture::new();
    let own = task(TASK, "S1", Some(fixture.vm));
    fixture.list(1, state(vec![other(), own.clone()], agents()));
    fixture.marathon(1, listing(vec![app(&labels, &[TASK])]));
    let desired = fixture.desired(2);
    let [wanted] = &desired.interfaces[..] else {
        panic!("{desired:?}")
    };
    assert_eq!(
        wanted.sorted_security_groups()[0].to_string(),
        "default-domain:mesos-default:web"
    );
    let interface = wanted.uuid;
    let ours = &fixture.contrail.vms[&fixture.vm];
    assert_eq!(
        diff(Actual::cached(ours), &desired)[1..],
        [
            diff::Change::SetSecurityGroups(interface),
            diff::Change::SetFloatingIps(interface)
        ]
    );
    let none = |change: &dyn Fn(&mut Fixture)| {
        let mut fixture = Fixture::new();
        fixture.list(1, state(vec![other(), own.clone()], agents()));
        fixture.marathon(1, listing(vec![app(&labels, &[TASK])]));
        change(&mut fixture);
        let desired = fixture.desired(2);
        assert_eq!(desired.interfaces, []);
        desired
    };
    none(&|fixture| fixture.marathon(2, listing(vec![app(&labels, &[])])));
    none(&|fixture| fixture.marathon.mark_lost(fixture.at(2), "refused"));
    none(&|fixture| fixture.policy.framework = "marathon-2".into());
    none(&|fixture| fixture.ours().interfaces[0].network_name = Some("another".into()));
    none(&|fixture| fixture.ours().interfaces[0].network_name = None);
    let nonsense = [("floating-ips", "nonsense")];
    let desired = none(&|fixture| fixture.marathon(2, listing(vec![app(&nonsense, &[TASK])])));
    assert_eq!(desired.invalid_labels.len(), 1);
    // An app that cannot be read keeps its state, and its labels do not apply meanwhile.
    none(&|fixture| {
        let mut listing = listing(vec![]);
        listing.skipped.push(Skipped {
            kind: "app",
            id: Some("/shop/web".into()),
            problem: "null".into(),
        });
        fixture.marathon(2, listing);
    });
}

#[test]
fn pod_is_kept_until_its_last_task_ends() {
    let mut fixture = Fixture::new();
    let nested = |id: &str, inner: &str| {
        let mut task = task(id, "S1", None);
        task.status.container = Some(format!("{}.{inner}", vm_uuid(1)).into());
        task
    };
    fixture.list(
        1,
        state(vec![other(), nested("a", "x"), nested("b", "y")], agents()),
    );
    for id in ["a", "b"] {
        assert!(matches!(fixture.decision(700), Decision::Keep(_)));
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
        let touched = fixture.mesos.apply_change(change, fixture.at(2));
        assert!(touched.contains(&fixture.vm));
    }
    assert_eq!(
        fixture.decision(700),
        Decision::Defer(DeferReason::NotListedSince)
    );
}
