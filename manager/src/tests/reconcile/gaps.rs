//! Links to wrong hosts, and floating addresses that somebody else has made.

use super::*;
use crate::vnc::{PropertyUpdate, VirtualMachineInterface};

impl Rig {
    async fn router(&self, node: &str) -> Uuid {
        let name = FqName::new(["default-global-system-config", node]);
        let found = self.world.client.id_of::<VirtualRouter>(&name).await;
        found.unwrap().unwrap()
    }

    fn links(&self, machine: Uuid) -> Vec<String> {
        let machine = self.world.server.object(&machine.to_string()).unwrap();
        refs(&machine, "virtual_router_back_refs")
    }

    /// An operator's own floating address.
    async fn floating_of_others(&self, address: &str, marks: &[(&str, &str)]) -> Uuid {
        let mut floating = FloatingIp::named(name(POOL).child(format!("theirs-{address}")));
        floating.floating_ip_address = address.parse::<IpAddr>().unwrap().into();
        floating.common.annotations = marks.iter().copied().collect();
        self.world.client.create(&floating).await.unwrap()
    }
}

#[tokio::test]
async fn a_container_is_linked_to_its_host_alone() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.mesos(&[(1, machine)]);
    let (right, wrong) = (rig.router("node1").await, rig.router("node2").await);
    let client = &rig.world.client;
    let link = async |router, machine| {
        let link = client.link::<VirtualRouter, VirtualMachine>(router, machine);
        link.await.unwrap();
    };
    // Beside the right one.
    link(wrong, machine).await;
    rig.settle().await;
    assert_eq!(rig.links(machine), [right.to_string()]);
    // In its place.
    link(wrong, machine).await;
    let unlink = client.unlink::<VirtualRouter, VirtualMachine>(right, machine);
    unlink.await.unwrap();
    rig.settle().await;
    assert_eq!(rig.links(machine), [right.to_string()]);
    // One whose host is not known keeps what it has, and so does what is not Mesos' own.
    let foreign = rig.put(2).await;
    link(wrong, machine).await;
    link(wrong, foreign).await;
    client
        .unlink::<VirtualRouter, VirtualMachine>(right, machine)
        .await
        .unwrap();
    client
        .unlink::<VirtualRouter, VirtualMachine>(right, foreign)
        .await
        .unwrap();
    client.delete::<VirtualRouter>(right).await.unwrap();
    let mut config = follow(vec![]);
    config.policy.young = Duration::from_hours(1);
    let (_writes, may_write) = watch::channel(true);
    let careful = Reconciler::new(
        rig.world.containers.clone(),
        rig.world.client.clone(),
        &rig.world.config,
        &config,
        may_write,
    );
    let rig = Rig {
        reconciler: careful,
        ..rig
    };
    rig.mesos(&[(1, machine)]);
    rig.settle().await;
    assert_eq!(rig.links(machine), [wrong.to_string()]);
    assert_eq!(rig.links(foreign), [wrong.to_string()]);
}

#[tokio::test]
async fn an_address_that_nobody_uses_is_adopted_and_given_back() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.mesos(&[(1, machine)]);
    let theirs = rig.floating_of_others("10.66.77.123", &[]).await;
    let fixed = format!("{POOL}(10.66.77.123)");
    let wanted = listing(&[("floating-ips", fixed.as_str())], &[1]);
    rig.marathon(wanted.clone());
    rig.settle().await;
    let interface = agent_api::interface_uuid(machine, "eth0").to_string();
    let has = |users: &[&String]| {
        let users = users.iter().map(|user| (*user).clone()).collect();
        assert_eq!(rig.floating(), [("10.66.77.123".to_owned(), users)]);
        assert!(rig.world.server.object(&theirs.to_string()).is_some());
    };
    has(&[&interface]);
    let told = rig.world.containers.get(Some("node1"), machine);
    let told = told.await.unwrap();
    assert_eq!(
        told.ports[0].floating_ips,
        ["10.66.77.123".parse::<IpAddr>().unwrap()]
    );
    // An agent that asks with the same label finds it there, with another one gives it back.
    let labelled = |pairs| request(1, vec![super::port("eth0", pairs)]).1;
    let pairs = [("floating-ips", fixed.as_str())];
    let containers = &rig.world.containers;
    let again = containers.put("node1", machine, &labelled(&pairs)).await;
    assert_eq!(again.unwrap().ports[0].floating_ips.len(), 1);
    has(&[&interface]);
    containers
        .put("node1", machine, &labelled(&[]))
        .await
        .unwrap();
    has(&[]);
    rig.settle().await;
    has(&[&interface]);
    // The label goes, and the address stays.
    rig.marathon(listing(&[], &[1]));
    rig.settle().await;
    has(&[]);
    assert_eq!(rig.annotation(theirs, plan::ADOPTED), None);
    // The container ends.
    rig.marathon(wanted);
    rig.settle().await;
    has(&[&interface]);
    containers.delete(Some("node1"), machine).await.unwrap();
    has(&[]);
    // What is left of the mark means nothing: an operator gives it to another container.
    let two = rig.put(2).await;
    rig.mesos(&[(2, two)]);
    let other = agent_api::interface_uuid(two, "eth0");
    let link = rig
        .world
        .client
        .link::<FloatingIp, VirtualMachineInterface>(theirs, other);
    link.await.unwrap();
    rig.marathon(listing(&[], &[2]));
    rig.settle().await;
    has(&[&other.to_string()]);
}

#[tokio::test]
async fn an_address_of_ours_that_nobody_uses_is_made_anew() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.mesos(&[(1, machine)]);
    let marks = [("owner", "contrail-mesos"), ("cluster", "mesos")];
    let left = rig.floating_of_others("10.66.77.123", &marks).await;
    let fixed = format!("{POOL}(10.66.77.123)");
    rig.marathon(listing(&[("floating-ips", fixed.as_str())], &[1]));
    // As found before anything is old enough to be removed.
    rig.reconciler
        .stores()
        .contrail
        .change(|view| view.orphans.clear());
    rig.settle().await;
    let interface = agent_api::interface_uuid(machine, "eth0").to_string();
    assert_eq!(
        rig.floating(),
        [("10.66.77.123".to_owned(), vec![interface])]
    );
    assert!(rig.world.server.object(&left.to_string()).is_none());
}

#[tokio::test]
async fn an_address_goes_over_to_the_task_that_replaces_its_own() {
    let rig = Rig::new().await;
    let fixed = format!("{POOL}(10.66.77.123)");
    let labels = [("floating-ips", fixed.as_str())];
    let asked = |number| request(number, vec![super::port("eth0", &labels)]);
    let (old, wanted) = asked(1);
    let containers = &rig.world.containers;
    containers.put("node1", old, &wanted).await.unwrap();
    let has = |interface: Uuid| {
        let interface = vec![interface.to_string()];
        assert_eq!(rig.floating(), [("10.66.77.123".to_owned(), interface)]);
    };
    has(agent_api::interface_uuid(old, "eth0"));
    // Where nobody comes back to it, the new one is refused.
    let (new, wanted) = asked(2);
    let refused = containers.put("node1", new, &wanted).await.unwrap_err();
    assert_eq!(refused.status(), 409);
    assert!(refused.to_string().contains("in use"), "{refused}");
    assert_eq!(rig.world.server.object(&new.to_string()), None);
    // Else it is made without it.
    let config = Config {
        follow: Some(follow(vec![])),
        ..rig.world.config.clone()
    };
    let followed = Containers::new(rig.world.client.clone(), &config);
    let made = followed.put("node1", new, &wanted).await.unwrap();
    assert_eq!(made.ports[0].floating_ips, Vec::<IpAddr>::new());
    assert_eq!(made.ports[0].addresses.len(), 1);
    has(agent_api::interface_uuid(old, "eth0"));
    // And gets it when the old one has gone.
    rig.mesos(&[(1, old), (2, new)]);
    rig.marathon(listing(&labels, &[1, 2]));
    containers.delete(Some("node1"), old).await.unwrap();
    rig.mesos(&[(2, new)]);
    rig.marathon(listing(&labels, &[2]));
    rig.settle().await;
    has(agent_api::interface_uuid(new, "eth0"));
}

#[tokio::test]
async fn an_address_that_somebody_has_is_left_and_it_is_said_who_has_it() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    let other = rig.put(2).await;
    let other = agent_api::interface_uuid(other, "eth0");
    let client = &rig.world.client;
    let used = rig.floating_of_others("10.66.77.120", &[]).await;
    let link = client.link::<FloatingIp, VirtualMachineInterface>(used, other);
    link.await.unwrap();
    let marks = [("owner", "openstack")];
    rig.floating_of_others("10.66.77.121", &marks).await;
    let theirs = [("owner", "contrail-mesos"), ("cluster", "other")];
    rig.floating_of_others("10.66.77.122", &theirs).await;
    let pool = name("default-domain:default-project:__public__:__fip_pool_public2__");
    let mut elsewhere = FloatingIp::named(pool.child("theirs"));
    elsewhere.floating_ip_address = "10.66.77.123".parse::<IpAddr>().unwrap().into();
    client.create(&elsewhere).await.unwrap();
    let before = rig.floating();
    for (address, said) in [
        (
            "10.66.77.120",
            "the virtual-machine-interface default-domain:mesos-default:",
        ),
        ("10.66.77.121", "its annotation owner says \"openstack\""),
        (
            "10.66.77.122",
            "its annotation owner says \"contrail-mesos\"",
        ),
        ("10.66.77.123", "no floating-ip of this pool"),
    ] {
        let fixed = format!("{POOL}({address})");
        let pairs = [("floating-ips", fixed.as_str())];
        let (_, request) = request(1, vec![super::port("eth0", &pairs)]);
        let refused = rig.world.containers.put("node1", machine, &request).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.status(), 409);
        assert!(refused.to_string().contains(said), "{refused}");
        assert_eq!(rig.floating(), before);
    }
    // A mark that was taken off lets it be adopted.
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
    rig.world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    let interface = agent_api::interface_uuid(machine, "eth0").to_string();
    assert!(
        rig.floating()
            .contains(&("10.66.77.121".to_owned(), vec![interface]))
    );
}
