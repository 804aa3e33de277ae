//! Orphans, interrupted listings, permission to write, and a manager that starts late.

use serde_json::json;

use super::*;
use crate::vnc::{InstanceIp, Patch, PropertyUpdate, VirtualMachineInterface};
use contrail_mesos_sim::vnc::{Effect, Fault};

#[tokio::test]
async fn orphans_of_ours_are_deleted() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.mesos(&[(1, vm)]);
    let client = &fixture.base.client;
    let network = "default-domain:mesos-default:blue";
    let marks = [("owner", "contrail-mesos"), ("cluster", "mesos")];
    let create_orphan = async |text: &str, cluster: &str| {
        let mut interface = VirtualMachineInterface::named(name(text));
        interface.virtual_network_refs = vec![Ref::to(name(network))];
        interface.common.annotations = [marks[0], ("cluster", cluster)].into_iter().collect();
        let mut address = InstanceIp::named(FqName::new([format!("{text}-v4").replace(':', "-")]));
        address.virtual_network_refs = vec![Ref::to(name(network))];
        address.common.annotations = interface.common.annotations.clone();
        client.create(&interface).await.unwrap();
        client.create(&address).await.unwrap();
        interface
    };
    create_orphan("default-domain:mesos-default:left", "mesos").await;
    create_orphan("default-domain:mesos-default:foreign", "other").await;
    fixture.settle().await;
    let left = fixture.base.server.objects("virtual-machine-interface");
    let names: Vec<_> = left
        .iter()
        .map(|one| one["fq_name"][2].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"foreign"));
    assert_eq!(fixture.base.added("instance-ip"), 2);
    fixture
        .base
        .containers
        .get(Some("node1"), vm)
        .await
        .unwrap();
}

#[tokio::test]
async fn interrupted_listing_resumes_at_the_same_page() {
    let fixture = ReconcileFixture::new().await;
    for number in 1..=5 {
        fixture.put(number).await;
    }
    // The third page of interfaces fails in a way that the client does not retry.
    let broken = Fault::new(Effect::Status(403, "Permission Denied".to_owned()));
    let path = "/virtual-machine-interfaces";
    fixture
        .base
        .server
        .fault(broken.on("GET", path).times(2, 1));
    let requests_to = |path: &str| {
        let log = fixture.base.server.log();
        log.iter()
            .filter(|entry| entry.path.starts_with(path))
            .count()
    };
    let mut listing = FullListing::new(&fixture.base.config.defaults, 2);
    listing.resume(&fixture.base.client).await.unwrap_err();
    let addresses = requests_to("/instance-ips?");
    listing.resume(&fixture.base.client).await.unwrap();
    // Pages that were read are not read again.
    assert_eq!(requests_to("/instance-ips?"), addresses);
    // Three pages, of which the last was requested twice.
    assert_eq!(requests_to(&format!("{path}?")), 4);
    fixture.reconciler.apply_contrail_listing(listing);
    fixture.reconciler.stores().contrail.read(|view| {
        assert_eq!(view.vms.len(), 5);
        assert!(
            view.vms
                .values()
                .all(|one| one.is_complete() && one.routers.len() == 1)
        );
        assert!(view.orphans.is_empty());
    });
}

#[tokio::test]
async fn reconciler_without_permission_does_not_write() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.writes.send_replace(false);
    fixture.mesos(&[(1, vm)]);
    fixture.read().await;
    let reconciler = fixture.reconciler.clone();
    let worker = tokio::spawn(async move { reconciler.work().await });
    let before = fixture.written();
    let update = mesos_master::Change::TaskAdded(Box::new(task(1, vm)));
    fixture
        .reconciler
        .apply_mesos_update(mesos_master::Update::Changed(update));
    assert_eq!(fixture.reconciler.waiting(), 1);
    assert_eq!(fixture.reconciler.due_changes().len(), 1);
    // Time for a worker that does not wait for permission.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        (fixture.written(), fixture.reconciler.waiting()),
        (before, 1)
    );
    fixture.writes.send_replace(true);
    while fixture.reconciler.waiting() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fixture.annotation(vm, "task"), Some(task_id(1)));
    worker.abort();
}

#[tokio::test]
async fn changes_by_others_are_reverted_and_their_annotations_kept() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.mesos(&[(1, vm)]);
    fixture.settle().await;
    let client = &fixture.base.client;
    let patch = Patch::new().set("display_name", "mine");
    client.update::<VirtualMachine>(vm, patch).await.unwrap();
    let set = |key: &str, value: &str| PropertyUpdate::Set {
        field: "annotations".to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let changes = [set("note", "of an operator"), set("task", "another")];
    client.update_properties(vm, &changes).await.unwrap();
    fixture.settle().await;
    let object = fixture.base.server.object(&vm.to_string()).unwrap();
    assert_eq!(object["display_name"], task_id(1));
    assert_eq!(fixture.annotation(vm, "task"), Some(task_id(1)));
    assert_eq!(
        fixture.annotation(vm, "note").as_deref(),
        Some("of an operator")
    );
}

/// A master's event stream with this state and nothing more.
fn stream(vm: Uuid) -> Vec<u8> {
    let state = json!({
        "get_tasks": {"tasks": [{"task_id": {"value": task_id(1)}, "framework_id": {"value": "F"},
            "agent_id": {"value": "S1"}, "state": "TASK_RUNNING", "statuses": [
                {"state": "TASK_RUNNING", "container_status":
                    {"container_id": {"value": vm.to_string()}}}]}]},
        "get_agents": {"agents": [{"agent_info": {"id": {"value": "S1"}, "hostname": "node1"},
            "active": true}]},
        "get_frameworks": {"frameworks": [
            {"framework_info": {"id": {"value": "F"}, "name": "marathon"}, "active": true}]}});
    let event = json!({"type": "SUBSCRIBED", "subscribed": {"get_state": state}}).to_string();
    format!("{}\n{event}", event.len()).into_bytes()
}

#[tokio::test]
async fn manager_started_late_reconciles_running_containers() {
    let fixture = Fixture::new().await;
    let (vm, request) = plain(1);
    fixture.containers.put("node1", vm, &request).await.unwrap();
    let (feed, _) = tokio::sync::broadcast::channel(16);
    let parts = feed.clone();
    let master =
        ScriptedServer::start(move |_, _| Reply::Stream("application/json", parts.clone())).await;
    let address = Address::parse(&master.address.to_string(), mesos_master::DEFAULT_PORT).unwrap();
    let mut config = fixture.config.clone();
    config.follow = Some(Follow {
        // Waiting times keep the reconciler from deleting anything here.
        policy: Policy::default(),
        ..follow(vec![address])
    });
    let manager = Manager::start(config).await.unwrap();
    while feed.receiver_count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    feed.send(stream(vm)).unwrap();
    let display_name = || {
        let object = fixture.server.object(&vm.to_string()).unwrap();
        object["display_name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    while display_name() != task_id(1) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let reconciler = manager.reconciler().unwrap();
    while reconciler.waiting() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(reconciler.due_changes(), []);
    manager.stop().await;
}
