//! Provisioning at start.

use super::*;
use contrail_mesos_sim::vnc::{Effect, Fault};

fn config(server: &Handle) -> Config {
    let mut config = Config::new(VncOptions {
        call_timeout: Duration::from_secs(1),
        ..options(server)
    });
    config.listen.set_port(0);
    config.admin_listen = None;
    config.provision = Some(Provision {
        pod_task_subnets: vec!["10.32.0.0/12".parse().unwrap()],
        ip_fabric_subnets: vec!["10.64.0.0/12".parse().unwrap()],
        ..Provision::default()
    });
    config
}

#[tokio::test]
async fn provision_repeated_creates_nothing_twice() {
    let (_, server) = Server::start(Options::default()).await.unwrap();
    for _ in 0..2 {
        let manager = Manager::start(config(&server)).await.unwrap();
        manager.ready().await;
        manager.stop().await;
    }
    let names = |kind: &str| -> Vec<String> {
        let objects = server.objects(kind);
        let last = |object: &Value| {
            object["fq_name"]
                .as_array()
                .unwrap()
                .last()
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        };
        objects
            .iter()
            .map(last)
            .filter(|name| name.starts_with("mesos"))
            .collect()
    };
    assert_eq!(names("project"), ["mesos-default"]);
    assert_eq!(
        names("network-ipam"),
        ["mesos-ip-fabric-ipam", "mesos-pod-task-ipam"]
    );
    assert_eq!(names("virtual-network"), ["mesos-default-pod-task-network"]);
    assert_eq!(names("network-policy"), ["mesos-default-ip-fabric-np"]);
    let policy = &server.objects("network-policy")[0];
    assert_eq!(refs(policy, "virtual_network_back_refs").len(), 2);
}

#[tokio::test]
async fn provision_failing_once_at_any_call_completes() {
    for step in 0..24 {
        let (_, server) = Server::start(Options::default()).await.unwrap();
        server.fault(
            Fault::new(Effect::Status(500, "oops".to_owned()))
                .performed()
                .times(step, 1),
        );
        let manager = Manager::start(config(&server)).await.unwrap();
        manager.ready().await;
        assert_eq!(
            refs(
                &server.objects("network-policy")[0],
                "virtual_network_back_refs"
            )
            .len(),
            2,
            "{step}"
        );
        manager.stop().await;
    }
}

#[tokio::test]
async fn provision_ip_fabric_forwarding_and_snat() {
    let (_, server) = Server::start(Options::default()).await.unwrap();
    let mut config = config(&server);
    let wanted = config.provision.as_mut().unwrap();
    wanted.ip_fabric_forwarding = true;
    wanted.ip_fabric_snat = true;
    let client = VncClient::new(options(&server)).unwrap();
    let network = config.defaults.network.clone();
    let manager = Manager::start(config).await.unwrap();
    manager.ready().await;
    let network = client
        .find::<VirtualNetwork>(&network)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(network.virtual_network_refs[0].to.name(), "ip-fabric");
    assert_eq!(
        network.network_ipam_refs[0].to.name(),
        "mesos-ip-fabric-ipam"
    );
    assert_eq!(network.fabric_snat, Some(true));
    let pools = &server.objects("global-vrouter-config")[0]["port_translation_pools"];
    assert_eq!(
        pools["port_translation_pool"],
        json!([
            {"protocol": "tcp", "port_range": {"start_port": 56000, "end_port": 57023},
             "port_count": "1024"},
            {"protocol": "udp", "port_range": {"start_port": 57024, "end_port": 58047},
             "port_count": "1024"},
        ])
    );
    let router = VirtualRouter::named(name("default-global-system-config:node1"));
    client.ensure(&router).await.unwrap();
    let (vm, request) = plain(1);
    let made = manager
        .contrail()
        .unwrap()
        .containers
        .put("node1", vm, &request)
        .await
        .unwrap();
    assert_eq!(
        made.ports[0].addresses[0].address.to_string(),
        "10.79.255.252/12"
    );
}
