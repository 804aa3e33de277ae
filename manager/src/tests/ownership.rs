//! What is another agent's, another cluster's or an operator's is left alone.

use super::*;
use crate::vnc::{FloatingIp, InstanceIp, Patch, VirtualMachine, VirtualMachineInterface};

#[tokio::test]
async fn only_ones_own_is_touched() {
    let world = World::new().await;
    let (machine, request) = plain(1);
    world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    let status = |result: Result<(), ManagerError>| result.unwrap_err().status().as_u16();
    for agent in ["node2", "nobody"] {
        assert_eq!(
            status(world.containers.delete(Some(agent), machine).await),
            403
        );
        assert_eq!(
            status(world.containers.get(Some(agent), machine).await.map(drop)),
            403
        );
    }
    assert_eq!(
        status(
            world
                .containers
                .put("node2", machine, &request)
                .await
                .map(drop)
        ),
        403
    );

    // A machine of somebody else, and one of another cluster.
    let (other, request) = plain(2);
    let mut object = VirtualMachine::named(FqName::new([other.to_string()]));
    object.common.uuid = Some(other);
    world.client.create(&object).await.unwrap();
    let marks = [
        ("owner", "contrail-mesos"),
        ("cluster", "elsewhere"),
        ("agent", "node1"),
    ];
    for annotations in [None, Some(marks)] {
        if let Some(annotations) = annotations {
            let annotations: crate::vnc::KeyValues = annotations.into_iter().collect();
            let patch = Patch::new().set("annotations", annotations);
            world
                .client
                .update::<VirtualMachine>(other, patch)
                .await
                .unwrap();
        }
        let held = world.server.counts();
        assert_eq!(
            status(
                world
                    .containers
                    .put("node1", other, &request)
                    .await
                    .map(drop)
            ),
            403
        );
        assert_eq!(
            status(world.containers.get(Some("node1"), other).await.map(drop)),
            403
        );
        assert_eq!(
            status(world.containers.delete(Some("node1"), other).await),
            403
        );
        assert_eq!(world.server.counts(), held);
    }
    world.client.delete::<VirtualMachine>(other).await.unwrap();

    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    world.assert_clean("deleted");
}

#[tokio::test]
async fn what_an_operator_put_on_a_port_stays() {
    let world = World::new().await;
    let (machine, request) = plain(1);
    world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    // An operator's own floating address and address on our port: they lose it, and stay.
    let interface = agent_api::interface_uuid(machine, "eth0");
    let found = world
        .client
        .read::<VirtualMachineInterface>(interface)
        .await
        .unwrap()
        .unwrap();
    let to = || vec![Ref::to(found.common.fq_name.clone())];
    let pool = name("default-domain:default-project:__public__:__fip_pool_public__");
    let mut floating = FloatingIp::named(pool.child("theirs"));
    floating.virtual_machine_interface_refs = to();
    world.client.create(&floating).await.unwrap();
    let mut address = InstanceIp::named(name("theirs"));
    address.virtual_network_refs = vec![Ref::to(found.virtual_network_refs[0].to.clone())];
    address.virtual_machine_interface_refs = to();
    world.client.create(&address).await.unwrap();
    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    assert_eq!(
        (world.more("floating-ip"), world.more("instance-ip")),
        (1, 1)
    );
    assert_eq!(
        (
            world.more("virtual-machine"),
            world.more("virtual-machine-interface")
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn a_foreign_interface_on_our_machine_keeps_it_and_is_named() {
    let world = World::new().await;
    let (machine, request) = plain(1);
    world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    let mut theirs = VirtualMachineInterface::named(name("default-domain:mesos-default:theirs"));
    theirs.virtual_network_refs = vec![Ref::to(world.config.defaults.network.clone())];
    theirs.virtual_machine_refs = vec![Ref::to(FqName::new([machine.to_string()]))];
    let uuid = world.client.create(&theirs).await.unwrap();
    let error = world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap_err();
    assert_eq!(error.status(), 409);
    assert!(error.to_string().contains(&uuid.to_string()), "{error}");
    world
        .client
        .delete::<VirtualMachineInterface>(uuid)
        .await
        .unwrap();
    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    world.assert_clean("deleted");
}
