//! Names that do not exist, that come and go, and that are created.

use super::*;
use crate::vnc::{ReadOptions, VirtualMachine};

async fn put(
    world: &World,
    agent: &str,
    ports: Vec<PortRequest>,
) -> Result<agent_api::Ports, ManagerError> {
    let (machine, request) = request(1, ports);
    world.containers.put(agent, machine, &request).await
}

async fn refusal(world: &World, agent: &str, pairs: &[(&str, &str)]) -> String {
    let error = put(world, agent, vec![port("eth0", pairs)])
        .await
        .unwrap_err();
    assert_eq!(error.status(), 400, "{error}");
    world.assert_clean("refused");
    error.to_string()
}

#[tokio::test]
async fn an_unknown_name_is_told_what_there_is() {
    let world = World::new().await;
    let public = "default-domain:default-project:__public__";
    for (pairs, said) in [
        (
            vec![("networks", "blu")],
            "no network \"default-domain:mesos-default:blu\": the project \"default-domain:mesos-default\" has \"blue\", \"mesos-default-pod-task-network\"",
        ),
        (vec![("networks", "tenants:shop:blue")], "has \"red\""),
        (
            vec![("networks", "tenants:shops:red")],
            "nor is there a project \"tenants:shops\"",
        ),
        (
            vec![("project-name", "prod")],
            "no project \"default-domain:prod\": the domain \"default-domain\" has \"default-project\", \"mesos-default\"",
        ),
        (
            vec![("domain-name", "nowhere")],
            "nor is there a domain \"nowhere\"",
        ),
        (
            vec![("security-groups", "web,api")],
            "no security group \"default-domain:mesos-default:api\": the project \"default-domain:mesos-default\" has \"web\"",
        ),
        (
            vec![("floating-ips", &*format!("{public}:pool"))],
            "has \"__fip_pool_public2__\", \"__fip_pool_public__\"",
        ),
    ] {
        let refused = refusal(&world, "node1", &pairs).await;
        assert!(refused.contains(said), "{pairs:?}: {refused}");
    }
    let refused = refusal(&world, "node3", &[]).await;
    assert!(
        refused.contains("no virtual-router is called \"node3\"")
            && refused.contains("\"node1\", \"node2\""),
        "{refused}"
    );

    // All at once, each once.
    let ports = vec![
        port("eth0", &[("networks", "blu"), ("security-groups", "api")]),
        port("eth1", &[("networks", "blu")]),
    ];
    let error = put(&world, "node3", ports).await.unwrap_err();
    let ManagerError::Invalid(problems) = error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 3, "{problems:#?}");
}

#[tokio::test]
async fn what_is_missing_is_looked_for_again() {
    let world = World::new().await;
    refusal(&world, "node3", &[("networks", "green")]).await;
    network(
        &world.client,
        "default-domain:mesos-default:green",
        &["7.7.7.0/24"],
    )
    .await;
    world
        .client
        .ensure(&VirtualRouter::named(name(
            "default-global-system-config:node3",
        )))
        .await
        .unwrap();
    let (machine, _) = plain(1);
    put(
        &world,
        "node3",
        vec![port("eth0", &[("networks", "green")])],
    )
    .await
    .unwrap();
    world
        .containers
        .delete(Some("node3"), machine)
        .await
        .unwrap();

    // Made anew under the same name: what was remembered is wrong, and noticed.
    for _ in 0..2 {
        let network = name("default-domain:mesos-default:green");
        let uuid = world
            .client
            .id_of::<VirtualNetwork>(&network)
            .await
            .unwrap()
            .unwrap();
        world.client.delete::<VirtualNetwork>(uuid).await.unwrap();
        let router = name("default-global-system-config:node3");
        let uuid = world
            .client
            .id_of::<VirtualRouter>(&router)
            .await
            .unwrap()
            .unwrap();
        world.client.delete::<VirtualRouter>(uuid).await.unwrap();
        world
            .client
            .ensure(&VirtualRouter::named(router))
            .await
            .unwrap();
        let refused = put(
            &world,
            "node3",
            vec![port("eth0", &[("networks", "green")])],
        )
        .await
        .unwrap_err();
        assert!(
            refused.to_string().contains("there is no network"),
            "{refused}"
        );
        assert_eq!(world.more("virtual-machine"), 0);
        self::network(
            &world.client,
            "default-domain:mesos-default:green",
            &["7.7.7.0/24"],
        )
        .await;
        let made = put(
            &world,
            "node3",
            vec![port("eth0", &[("networks", "green")])],
        )
        .await
        .unwrap();
        assert_eq!(
            made.ports[0].addresses[0].address.to_string(),
            "7.7.7.252/24"
        );
        world
            .containers
            .delete(Some("node3"), machine)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_host_is_found_by_its_address_when_not_by_its_name() {
    let world = World::new().await;
    let (machine, mut request) = plain(1);
    request.virtual_router_address = "10.84.22.28".parse().ok();
    let made = world
        .containers
        .put("agent-x", machine, &request)
        .await
        .unwrap();
    let reading = ReadOptions {
        back_refs: true,
        ..ReadOptions::default()
    };
    let object = world
        .client
        .read_with::<VirtualMachine>(machine, &reading)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(object.virtual_router_back_refs[0].to.name(), "node2");
    let list = world
        .containers
        .list("agent-x", request.virtual_router_address)
        .await
        .unwrap();
    assert_eq!(list.containers, [made]);
    // The host's name is another agent's.
    assert!(
        world
            .containers
            .list("node2", None)
            .await
            .unwrap()
            .containers
            .is_empty()
    );
    assert_eq!(
        world
            .containers
            .list("agent-x", None)
            .await
            .unwrap_err()
            .status(),
        400
    );
}

#[tokio::test]
async fn what_may_be_created_is() {
    let world = World::with(|config| {
        config.create = Create {
            domains: true,
            projects: true,
            networks: true,
        }
    })
    .await;
    let pairs = [
        ("networks", "green"),
        ("network-subnets", "9.9.9.0/24,fd00:9::/64"),
        ("project-name", "new"),
        ("domain-name", "fresh"),
    ];
    let both: Vec<_> = (0..8)
        .map(|number| request(number, vec![port("eth0", &pairs)]))
        .collect();
    let put = both
        .iter()
        .map(|(machine, request)| world.containers.put("node1", *machine, request));
    for made in futures::future::join_all(put).await {
        let made = made.unwrap();
        assert_eq!(made.ports[0].virtual_network_name, "fresh:new:green");
        assert_eq!(made.ports[0].addresses.len(), 2);
    }
    for (machine, _) in &both {
        world
            .containers
            .delete(Some("node1"), *machine)
            .await
            .unwrap();
    }
    assert_eq!(
        (
            world.more("domain"),
            world.more("project"),
            world.more("virtual-network"),
            world.more("network-ipam")
        ),
        (1, 1, 1, 1)
    );
    assert_eq!(world.more("virtual-machine"), 0);
    let counts = world.server.counts();
    let refused = self::put(&world, "node1", vec![port("eth0", &[("networks", "pink")])])
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("name them in the label network-subnets"),
        "{refused}"
    );
    assert_eq!(world.server.counts(), counts);
}
