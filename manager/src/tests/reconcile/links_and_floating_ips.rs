//! Links to wrong hosts, and floating IPs that somebody else created.

use super::*;
use crate::model::annotation;
use crate::vnc::{PropertyUpdate, VirtualMachineInterface};

impl ReconcileFixture {
    async fn router(&self, node: &str) -> Uuid {
        let name = FqName::new(["default-global-system-config", node]);
        let found = self.base.client.id_of::<VirtualRouter>(&name).await;
        found.unwrap().unwrap()
    }

    fn links(&self, vm: Uuid) -> Vec<String> {
        let vm = self.base.server.object(&vm.to_string()).unwrap();
        refs(&vm, "virtual_router_back_refs")
    }

    /// Creates a floating-ip of an operator.
    async fn create_foreign_floating_ip(&self, address: &str, marks: &[(&str, &str)]) -> Uuid {
        let mut floating = FloatingIp::named(name(POOL).child(format!("theirs-{address}")));
        floating.floating_ip_address = address.parse::<IpAddr>().unwrap().into();
        floating.common.annotations = marks.iter().copied().collect();
        self.base.client.create(&floating).await.unwrap()
    }
}

#[tokio::test]
async fn container_is_linked_only_to_its_host() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.mesos(&[(1, vm)]);
    let (right, wrong) = (fixture.router("node1").await, fixture.router("node2").await);
    let client = &fixture.base.client;
    let link = async |router, vm| {
        let link = client.link::<VirtualRouter, VirtualMachine>(router, vm);
        link.await.unwrap();
    };
    // Beside the right one.
    link(wrong, vm).await;
    fixture.settle().await;
    assert_eq!(fixture.links(vm), [right.to_string()]);
    // In its place.
    link(wrong, vm).await;
    let unlink = client.unlink::<VirtualRouter, VirtualMachine>(right, vm);
    unlink.await.unwrap();
    fixture.settle().await;
    assert_eq!(fixture.links(vm), [right.to_string()]);
    // A container whose host is not known keeps its link, and so does one without a task.
    let foreign = fixture.put(2).await;
    link(wrong, vm).await;
    link(wrong, foreign).await;
    client
        .unlink::<VirtualRouter, VirtualMachine>(right, vm)
        .await
        .unwrap();
    client
        .unlink::<VirtualRouter, VirtualMachine>(right, foreign)
        .await
        .unwrap();
    client.delete::<VirtualRouter>(right).await.unwrap();
    let mut config = follow(vec![]);
    config.policy.grace_period = Duration::from_hours(1);
    let (_writes, may_write) = watch::channel(true);
    let reconciler = Reconciler::new(
        fixture.base.containers.clone(),
        fixture.base.client.clone(),
        &fixture.base.config,
        &config,
        may_write,
    );
    let fixture = ReconcileFixture {
        reconciler,
        ..fixture
    };
    fixture.mesos(&[(1, vm)]);
    fixture.settle().await;
    assert_eq!(fixture.links(vm), [wrong.to_string()]);
    assert_eq!(fixture.links(foreign), [wrong.to_string()]);
}

#[tokio::test]
async fn unused_floating_ip_is_adopted_and_returned() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.mesos(&[(1, vm)]);
    let theirs = fixture
        .create_foreign_floating_ip("10.66.77.123", &[])
        .await;
    let fixed = format!("{POOL}(10.66.77.123)");
    let wanted = listing(&[("floating-ips", fixed.as_str())], &[1]);
    fixture.marathon(wanted.clone());
    fixture.settle().await;
    let interface = agent_api::interface_uuid(vm, "eth0").to_string();
    let has = |users: &[&String]| {
        let users = users.iter().map(|user| (*user).clone()).collect();
        assert_eq!(fixture.floating(), [("10.66.77.123".to_owned(), users)]);
        assert!(fixture.base.server.object(&theirs.to_string()).is_some());
    };
    has(&[&interface]);
    let ports = fixture.base.containers.get(Some("node1"), vm);
    let ports = ports.await.unwrap();
    assert_eq!(
        ports.ports[0].floating_ips,
        ["10.66.77.123".parse::<IpAddr>().unwrap()]
    );
    // A repeated request finds it; one without the label returns it.
    let labelled = |pairs| request(1, vec![super::port("eth0", pairs)]).1;
    let pairs = [("floating-ips", fixed.as_str())];
    let containers = &fixture.base.containers;
    let again = containers.put("node1", vm, &labelled(&pairs)).await;
    assert_eq!(again.unwrap().ports[0].floating_ips.len(), 1);
    has(&[&interface]);
    containers.put("node1", vm, &labelled(&[])).await.unwrap();
    has(&[]);
    fixture.settle().await;
    has(&[&interface]);
    // Without the label it is returned, and stays.
    fixture.marathon(listing(&[], &[1]));
    fixture.settle().await;
    has(&[]);
    assert_eq!(fixture.annotation(theirs, annotation::ADOPTED), None);
    // The container ends.
    fixture.marathon(wanted);
    fixture.settle().await;
    has(&[&interface]);
    containers.delete(Some("node1"), vm).await.unwrap();
    has(&[]);
    assert_eq!(fixture.annotation(theirs, annotation::ADOPTED), None);
    // The rest of the mark has no meaning when an operator links it to another container.
    let two = fixture.put(2).await;
    fixture.mesos(&[(2, two)]);
    let other = agent_api::interface_uuid(two, "eth0");
    let link = fixture
        .base
        .client
        .link::<FloatingIp, VirtualMachineInterface>(theirs, other);
    link.await.unwrap();
    fixture.marathon(listing(&[], &[2]));
    fixture.settle().await;
    has(&[&other.to_string()]);
}

#[tokio::test]
async fn unused_floating_ip_of_ours_is_recreated() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.mesos(&[(1, vm)]);
    let marks = [("owner", "contrail-mesos"), ("cluster", "mesos")];
    let left = fixture
        .create_foreign_floating_ip("10.66.77.123", &marks)
        .await;
    let fixed = format!("{POOL}(10.66.77.123)");
    fixture.marathon(listing(&[("floating-ips", fixed.as_str())], &[1]));
    // As if its grace period had not passed.
    fixture
        .reconciler
        .stores()
        .contrail
        .change(|view| view.orphans.clear());
    fixture.settle().await;
    let interface = agent_api::interface_uuid(vm, "eth0").to_string();
    assert_eq!(
        fixture.floating(),
        [("10.66.77.123".to_owned(), vec![interface])]
    );
    assert!(fixture.base.server.object(&left.to_string()).is_none());
}

#[tokio::test]
async fn floating_ip_is_handed_over_to_the_replacing_task() {
    let fixture = ReconcileFixture::new().await;
    let fixed = format!("{POOL}(10.66.77.123)");
    let labels = [("floating-ips", fixed.as_str())];
    let with_floating_ip = |number| request(number, vec![super::port("eth0", &labels)]);
    let (old, wanted) = with_floating_ip(1);
    let containers = &fixture.base.containers;
    containers.put("node1", old, &wanted).await.unwrap();
    let has = |interface: Uuid| {
        let interface = vec![interface.to_string()];
        assert_eq!(fixture.floating(), [("10.66.77.123".to_owned(), interface)]);
    };
    has(agent_api::interface_uuid(old, "eth0"));
    // Without a reconciler that adds it later, the new one is refused.
    let (new, wanted) = with_floating_ip(2);
    let refused = containers.put("node1", new, &wanted).await.unwrap_err();
    assert_eq!(refused.status(), 409);
    assert!(refused.to_string().contains("in use"), "{refused}");
    assert_eq!(fixture.base.server.object(&new.to_string()), None);
    // With one, it is created without it.
    let config = Config {
        follow: Some(follow(vec![])),
        ..fixture.base.config.clone()
    };
    let followed = Containers::new(fixture.base.client.clone(), &config);
    let made = followed.put("node1", new, &wanted).await.unwrap();
    assert_eq!(made.ports[0].floating_ips, Vec::<IpAddr>::new());
    assert_eq!(made.ports[0].addresses.len(), 1);
    has(agent_api::interface_uuid(old, "eth0"));
    // It gets the address when the old one is gone.
    fixture.mesos(&[(1, old), (2, new)]);
    fixture.marathon(listing(&labels, &[1, 2]));
    containers.delete(Some("node1"), old).await.unwrap();
    fixture.mesos(&[(2, new)]);
    fixture.marathon(listing(&labels, &[2]));
    fixture.settle().await;
    has(agent_api::interface_uuid(new, "eth0"));
}

#[tokio::test]
async fn floating_ip_objects_of_others_is_kept_and_its_owner_named() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    let other = fixture.put(2).await;
    let other = agent_api::interface_uuid(other, "eth0");
    let client = &fixture.base.client;
    let used = fixture
        .create_foreign_floating_ip("10.66.77.120", &[])
        .await;
    let link = client.link::<FloatingIp, VirtualMachineInterface>(used, other);
    link.await.unwrap();
    let marks = [("owner", "openstack")];
    fixture
        .create_foreign_floating_ip("10.66.77.121", &marks)
        .await;
    let theirs = [("owner", "contrail-mesos"), ("cluster", "other")];
    fixture
        .create_foreign_floating_ip("10.66.77.122", &theirs)
        .await;
    let pool = name("default-domain:default-project:__public__:__fip_pool_public2__");
    let mut elsewhere = FloatingIp::named(pool.child("theirs"));
    elsewhere.floating_ip_address = "10.66.77.123".parse::<IpAddr>().unwrap().into();
    client.create(&elsewhere).await.unwrap();
    let before = fixture.floating();
    for (address, message) in [
        (
            "10.66.77.120",
            "the virtual-machine-interface default-domain:mesos-default:",
        ),
        ("10.66.77.121", "its annotation owner is \"openstack\""),
        ("10.66.77.122", "its annotation owner is \"contrail-mesos\""),
        ("10.66.77.123", "no floating-ip of this pool"),
    ] {
        let fixed = format!("{POOL}({address})");
        let pairs = [("floating-ips", fixed.as_str())];
        let (_, request) = request(1, vec![super::port("eth0", &pairs)]);
        let refused = fixture.base.containers.put("node1", vm, &request).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.status(), 409);
        assert!(refused.to_string().contains(message), "{refused}");
        assert_eq!(fixture.floating(), before);
    }
    // Without the annotation it is adopted.
    let owner = PropertyUpdate::Delete {
        field: "annotations".to_owned(),
        key: "owner".to_owned(),
    };
    let marked = client
        .list::<FloatingIp>(&crate::vnc::Query::new())
        .await
        .unwrap();
    let marked = marked
        .iter()
        .find(|one| one.common.annotations.get("owner") == Some("openstack"));
    let marked = marked.and_then(|one| one.common.uuid).unwrap();
    client.update_properties(marked, &[owner]).await.unwrap();
    let fixed = format!("{POOL}(10.66.77.121)");
    let pairs = [("floating-ips", fixed.as_str())];
    let (_, request) = request(1, vec![super::port("eth0", &pairs)]);
    fixture
        .base
        .containers
        .put("node1", vm, &request)
        .await
        .unwrap();
    let interface = agent_api::interface_uuid(vm, "eth0").to_string();
    assert!(
        fixture
            .floating()
            .contains(&("10.66.77.121".to_owned(), vec![interface]))
    );
}
