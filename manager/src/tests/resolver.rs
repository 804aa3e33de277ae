//! Names that do not exist, are created, deleted and created again.

use super::*;
use crate::vnc::{ReadOptions, VirtualMachine};

async fn put(
    fixture: &Fixture,
    agent: &str,
    ports: Vec<PortRequest>,
) -> Result<agent_api::Ports, ManagerError> {
    let (vm, request) = request(1, ports);
    fixture.containers.put(agent, vm, &request).await
}

async fn refusal(fixture: &Fixture, agent: &str, pairs: &[(&str, &str)]) -> String {
    let error = put(fixture, agent, vec![port("eth0", pairs)])
        .await
        .unwrap_err();
    assert_eq!(error.status(), 400, "{error}");
    fixture.assert_clean("refused");
    error.to_string()
}

#[tokio::test]
async fn unknown_name_error_lists_existing_names() {
    let fixture = Fixture::new().await;
    let public = "default-domain:default-project:__public__";
    for (pairs, message) in [
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
        let refused = refusal(&fixture, "node1", &pairs).await;
        assert!(refused.contains(message), "{pairs:?}: {refused}");
    }
    let refused = refusal(&fixture, "node3", &[]).await;
    assert!(
        refused.contains("no virtual-router is called \"node3\"")
            && refused.contains("\"node1\", \"node2\""),
        "{refused}"
    );

    // Every problem once.
    let ports = vec![
        port("eth0", &[("networks", "blu"), ("security-groups", "api")]),
        port("eth1", &[("networks", "blu")]),
    ];
    let error = put(&fixture, "node3", ports).await.unwrap_err();
    let ManagerError::Invalid(problems) = error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 3, "{problems:#?}");
}

#[tokio::test]
async fn missing_name_is_resolved_again() {
    let fixture = Fixture::new().await;
    refusal(&fixture, "node3", &[("networks", "green")]).await;
    network(
        &fixture.client,
        "default-domain:mesos-default:green",
        &["7.7.7.0/24"],
    )
    .await;
    fixture
        .client
        .ensure(&VirtualRouter::named(name(
            "default-global-system-config:node3",
        )))
        .await
        .unwrap();
    let (vm, _) = plain(1);
    put(
        &fixture,
        "node3",
        vec![port("eth0", &[("networks", "green")])],
    )
    .await
    .unwrap();
    fixture.containers.delete(Some("node3"), vm).await.unwrap();

    // Recreated under the same name: the cached uuid is wrong, and that is noticed.
    for _ in 0..2 {
        let network = name("default-domain:mesos-default:green");
        let uuid = fixture
            .client
            .id_of::<VirtualNetwork>(&network)
            .await
            .unwrap()
            .unwrap();
        fixture.client.delete::<VirtualNetwork>(uuid).await.unwrap();
        let router = name("default-global-system-config:node3");
        let uuid = fixture
            .client
            .id_of::<VirtualRouter>(&router)
            .await
            .unwrap()
            .unwrap();
        fixture.client.delete::<VirtualRouter>(uuid).await.unwrap();
        fixture
            .client
            .ensure(&VirtualRouter::named(router))
            .await
            .unwrap();
        let refused = put(
            &fixture,
            "node3",
            vec![port("eth0", &[("networks", "green")])],
        )
        .await
        .unwrap_err();
        assert!(
            refused.to_string().contains("there is no network"),
            "{refused}"
        );
        assert_eq!(fixture.added("virtual-machine"), 0);
        self::network(
            &fixture.client,
            "default-domain:mesos-default:green",
            &["7.7.7.0/24"],
        )
        .await;
        let made = put(
            &fixture,
            "node3",
            vec![port("eth0", &[("networks", "green")])],
        )
        .await
        .unwrap();
        assert_eq!(
            made.ports[0].addresses[0].address.to_string(),
            "7.7.7.252/24"
        );
        fixture.containers.delete(Some("node3"), vm).await.unwrap();
    }
}

#[tokio::test]
async fn router_is_resolved_by_address_without_a_name_match() {
    let fixture = Fixture::new().await;
    let (vm, mut request) = plain(1);
    request.virtual_router_address = "10.84.22.28".parse().ok();
    let made = fixture
        .containers
        .put("agent-x", vm, &request)
        .await
        .unwrap();
    let reading = ReadOptions {
        back_refs: true,
        ..ReadOptions::default()
    };
    let object = fixture
        .client
        .read_with::<VirtualMachine>(vm, &reading)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(object.virtual_router_back_refs[0].to.name(), "node2");
    let list = fixture
        .containers
        .list("agent-x", request.virtual_router_address)
        .await
        .unwrap();
    assert_eq!(list.containers, [made]);
    // The host's name belongs to another agent.
    assert!(
        fixture
            .containers
            .list("node2", None)
            .await
            .unwrap()
            .containers
            .is_empty()
    );
    assert_eq!(
        fixture
            .containers
            .list("agent-x", None)
            .await
            .unwrap_err()
            .status(),
        400
    );
}

#[tokio::test]
async fn missing_objects_are_created_where_allowed() {
    let fixture = Fixture::with(|config| {
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
        .map(|(vm, request)| fixture.containers.put("node1", *vm, request));
    for made in futures::future::join_all(put).await {
        let made = made.unwrap();
        assert_eq!(made.ports[0].virtual_network_name, "fresh:new:green");
        assert_eq!(made.ports[0].addresses.len(), 2);
    }
    for (vm, _) in &both {
        fixture.containers.delete(Some("node1"), *vm).await.unwrap();
    }
    assert_eq!(
        (
            fixture.added("domain"),
            fixture.added("project"),
            fixture.added("virtual-network"),
            fixture.added("network-ipam")
        ),
        (1, 1, 1, 1)
    );
    assert_eq!(fixture.added("virtual-machine"), 0);
    let counts = fixture.server.counts();
    let refused = self::put(
        &fixture,
        "node1",
        vec![port("eth0", &[("networks", "pink")])],
    )
    .await
    .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("name them in the label network-subnets"),
        "{refused}"
    );
    assert_eq!(fixture.server.counts(), counts);
}
