//! Objects of other agents, other clusters and operators are not touched.

use super::*;
use crate::vnc::{FloatingIp, InstanceIp, Patch, VirtualMachine, VirtualMachineInterface};

#[tokio::test]
async fn containers_objects_of_others_are_refused() {
    let fixture = Fixture::new().await;
    let (vm, request) = plain(1);
    fixture.containers.put("node1", vm, &request).await.unwrap();
    let status = |result: Result<(), ManagerError>| result.unwrap_err().status().as_u16();
    for agent in ["node2", "nobody"] {
        assert_eq!(
            status(fixture.containers.delete(Some(agent), vm).await),
            403
        );
        assert_eq!(
            status(fixture.containers.get(Some(agent), vm).await.map(drop)),
            403
        );
    }
    assert_eq!(
        status(
            fixture
                .containers
                .put("node2", vm, &request)
                .await
                .map(drop)
        ),
        403
    );

    // A virtual-machine of somebody else, and one of another cluster.
    let (other, request) = plain(2);
    let mut object = VirtualMachine::named(FqName::new([other.to_string()]));
    object.common.uuid = Some(other);
    fixture.client.create(&object).await.unwrap();
    let marks = [
        ("owner", "contrail-mesos"),
        ("cluster", "elsewhere"),
        ("agent", "node1"),
    ];
    for annotations in [None, Some(marks)] {
        if let Some(annotations) = annotations {
            let annotations: crate::vnc::KeyValues = annotations.into_iter().collect();
            let patch = Patch::new().set("annotations", annotations);
            fixture
                .client
                .update::<VirtualMachine>(other, patch)
                .await
                .unwrap();
        }
        let held = fixture.server.counts();
        assert_eq!(
            status(
                fixture
                    .containers
                    .put("node1", other, &request)
                    .await
                    .map(drop)
            ),
            403
        );
        assert_eq!(
            status(fixture.containers.get(Some("node1"), other).await.map(drop)),
            403
        );
        assert_eq!(
            status(fixture.containers.delete(Some("node1"), other).await),
            403
        );
        assert_eq!(fixture.server.counts(), held);
    }
    fixture
        .client
        .delete::<VirtualMachine>(other)
        .await
        .unwrap();

    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    fixture.assert_clean("deleted");
}

#[tokio::test]
async fn delete_keeps_addresses_of_operators() {
    let fixture = Fixture::new().await;
    let (vm, request) = plain(1);
    fixture.containers.put("node1", vm, &request).await.unwrap();
    // An operator's floating-ip and instance-ip on our port are unlinked and kept.
    let interface = agent_api::interface_uuid(vm, "eth0");
    let found = fixture
        .client
        .read::<VirtualMachineInterface>(interface)
        .await
        .unwrap()
        .unwrap();
    let to = || vec![Ref::to(found.common.fq_name.clone())];
    let pool = name("default-domain:default-project:__public__:__fip_pool_public__");
    let mut floating = FloatingIp::named(pool.child("theirs"));
    floating.virtual_machine_interface_refs = to();
    fixture.client.create(&floating).await.unwrap();
    let mut address = InstanceIp::named(name("theirs"));
    address.virtual_network_refs = vec![Ref::to(found.virtual_network_refs[0].to.clone())];
    address.virtual_machine_interface_refs = to();
    fixture.client.create(&address).await.unwrap();
    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    assert_eq!(
        (fixture.added("floating-ip"), fixture.added("instance-ip")),
        (1, 1)
    );
    assert_eq!(
        (
            fixture.added("virtual-machine"),
            fixture.added("virtual-machine-interface")
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn delete_with_foreign_interface_fails_and_names_it() {
    let fixture = Fixture::new().await;
    let (vm, request) = plain(1);
    fixture.containers.put("node1", vm, &request).await.unwrap();
    let mut theirs = VirtualMachineInterface::named(name("default-domain:mesos-default:theirs"));
    theirs.virtual_network_refs = vec![Ref::to(fixture.config.defaults.network.clone())];
    theirs.virtual_machine_refs = vec![Ref::to(FqName::new([vm.to_string()]))];
    let uuid = fixture.client.create(&theirs).await.unwrap();
    let error = fixture
        .containers
        .delete(Some("node1"), vm)
        .await
        .unwrap_err();
    assert_eq!(error.status(), 409);
    assert!(error.to_string().contains(&uuid.to_string()), "{error}");
    fixture
        .client
        .delete::<VirtualMachineInterface>(uuid)
        .await
        .unwrap();
    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    fixture.assert_clean("deleted");
}
