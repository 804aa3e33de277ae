//! Leftovers, readings that are cut, who may write, and a whole manager that starts late.

use serde_json::json;

use super::*;
use crate::vnc::{InstanceIp, Patch, PropertyUpdate, VirtualMachineInterface};
use contrail_mesos_sim::vnc::{Effect, Fault};

#[tokio::test]
async fn what_belongs_to_nothing_is_removed() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.mesos(&[(1, machine)]);
    let client = &rig.world.client;
    let network = "default-domain:mesos-default:blue";
    let marks = [("owner", "contrail-mesos"), ("cluster", "mesos")];
    let leftover = async |text: &str, cluster: &str| {
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
    leftover("default-domain:mesos-default:left", "mesos").await;
    leftover("default-domain:mesos-default:foreign", "other").await;
    rig.settle().await;
    let left = rig.world.server.objects("virtual-machine-interface");
    let names: Vec<_> = left
        .iter()
        .map(|one| one["fq_name"][2].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"foreign"));
    assert_eq!(rig.world.more("instance-ip"), 2);
    rig.world
        .containers
        .get(Some("node1"), machine)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_reading_that_is_cut_goes_on_where_it_was() {
    let rig = Rig::new().await;
    for number in 1..=5 {
        rig.put(number).await;
    }
    let impatient = VncClient::new(VncOptions {
        call_timeout: Duration::from_millis(40),
        ..options(&rig.world.server)
    })
    .unwrap();
    // The third page of interfaces fails until it is over.
    let broken = Fault::new(Effect::Status(500, "internal".to_owned()));
    let path = "/virtual-machine-interfaces";
    rig.world.server.fault(broken.on("GET", path).times(2, 1));
    let asked = |path: &str| {
        let log = rig.world.server.log();
        log.iter()
            .filter(|entry| entry.path.starts_with(path))
            .count()
    };
    let mut reading = Reading::new(&rig.world.config.defaults, 2);
    reading.go_on(&impatient).await.unwrap_err();
    let addresses = asked("/instance-ips?");
    reading.go_on(&impatient).await.unwrap();
    // What was read is not read again.
    assert_eq!(asked("/instance-ips?"), addresses);
    // Three pages, of which the last was asked for twice.
    assert_eq!(asked(&format!("{path}?")), 4);
    rig.reconciler.take_contrail(reading);
    rig.reconciler.stores().contrail.read(|view| {
        assert_eq!(view.machines.len(), 5);
        assert!(
            view.machines
                .values()
                .all(|one| one.is_whole() && one.routers.len() == 1)
        );
        assert!(view.orphans.is_empty());
    });
}

#[tokio::test]
async fn who_may_not_write_only_looks() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.writes.send_replace(false);
    rig.mesos(&[(1, machine)]);
    rig.read().await;
    let reconciler = rig.reconciler.clone();
    let worker = tokio::spawn(async move { reconciler.work().await });
    let before = rig.written();
    let update = mesos_master::Change::TaskAdded(Box::new(task(1, machine)));
    rig.reconciler
        .take_mesos(mesos_master::Update::Changed(update));
    assert_eq!(rig.reconciler.waiting(), 1);
    assert_eq!(rig.reconciler.differences().len(), 1);
    // Time for a worker that would not wait.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((rig.written(), rig.reconciler.waiting()), (before, 1));
    rig.writes.send_replace(true);
    while rig.reconciler.waiting() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rig.annotation(machine, "task"), Some(task_id(1)));
    worker.abort();
}

#[tokio::test]
async fn what_others_change_is_put_right_and_theirs_is_left() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.mesos(&[(1, machine)]);
    rig.settle().await;
    let client = &rig.world.client;
    let patch = Patch::new().set("display_name", "mine");
    client
        .update::<VirtualMachine>(machine, patch)
        .await
        .unwrap();
    let set = |key: &str, value: &str| PropertyUpdate::Set {
        field: "annotations".to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let changes = [set("note", "of an operator"), set("task", "another")];
    client.update_properties(machine, &changes).await.unwrap();
    rig.settle().await;
    let object = rig.world.server.object(&machine.to_string()).unwrap();
    assert_eq!(object["display_name"], task_id(1));
    assert_eq!(rig.annotation(machine, "task"), Some(task_id(1)));
    assert_eq!(
        rig.annotation(machine, "note").as_deref(),
        Some("of an operator")
    );
}

/// A master's event stream that says this state and then nothing more.
fn stream(machine: Uuid) -> Vec<u8> {
    let state = json!({
        "get_tasks": {"tasks": [{"task_id": {"value": task_id(1)}, "framework_id": {"value": "F"},
            "agent_id": {"value": "S1"}, "state": "TASK_RUNNING", "statuses": [
                {"state": "TASK_RUNNING", "container_status":
                    {"container_id": {"value": machine.to_string()}}}]}]},
        "get_agents": {"agents": [{"agent_info": {"id": {"value": "S1"}, "hostname": "node1"},
            "active": true}]},
        "get_frameworks": {"frameworks": [
            {"framework_info": {"id": {"value": "F"}, "name": "marathon"}, "active": true}]}});
    let event = json!({"type": "SUBSCRIBED", "subscribed": {"get_state": state}}).to_string();
    format!("{}\n{event}", event.len()).into_bytes()
}

#[tokio::test]
async fn a_manager_that_starts_late_adopts_what_runs() {
    let world = World::new().await;
    let (machine, request) = plain(1);
    world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    let (feed, _) = tokio::sync::broadcast::channel(16);
    let parts = feed.clone();
    let master =
        ScriptedServer::start(move |_, _| Reply::Stream("application/json", parts.clone())).await;
    let address = Address::parse(&master.address.to_string(), mesos_master::PORT).unwrap();
    let mut config = world.config.clone();
    config.follow = Some(Follow {
        // Nothing is removed here, whatever the reconciler believes.
        policy: Policy::default(),
        ..follow(vec![address])
    });
    let manager = Manager::start(config).await.unwrap();
    while feed.receiver_count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    feed.send(stream(machine)).unwrap();
    let display_name = || {
        let object = world.server.object(&machine.to_string()).unwrap();
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
    assert_eq!(reconciler.differences(), []);
    manager.stop().await;
}
