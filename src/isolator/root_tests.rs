//! Cases that the tests on a real Mesos cannot cause: DEBUG containers, and bytes that no framework
//! can send through the JSON API. Each test has a network namespace of its own, and needs root.

use std::path::Path;

use nix::sched::CloneFlags;
use prost::Message as _;

use super::*;
use crate::net::testing::{isolated_async, link_names};
use crate::node_dns::NodeDns;
use crate::node_state::{LocalOverlay, NodeState};
use crate::proto::mesos;
use crate::proto::mesos::slave::ContainerState;
use crate::proto::mesos::slave::{ContainerClass, ContainerConfig};
use crate::proto::mesos::{NetworkInfo, container_info};
use contrail_mesos_api::cluster::Revision;

fn isolator(directory: &Path) -> Arc<Isolator> {
    isolator_with(
        directory,
        "[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.1.0.0/24'",
    )
}

pub(super) fn isolator_with(directory: &Path, toml: &str) -> Arc<Isolator> {
    let path = directory.join("agent.toml");
    let toml = format!(
        "state_dir = '{0}/state'\nnetns_dir = '{0}/netns'\n{toml}\n",
        directory.display()
    );
    std::fs::write(&path, toml).unwrap();
    Isolator::new(&[("config".to_owned(), path.display().to_string())]).unwrap()
}

/// Publishes the overlay `vxlan-1` as the node daemon does.
fn publish(state_dir: &Path, subnet: &str, problem: Option<&str>) {
    let overlay = LocalOverlay {
        name: "vxlan-1".to_owned(),
        vni: 4097,
        subnet: Some(subnet.parse().unwrap()),
        subnet6: None,
        mtu: 1450,
        groups: None,
        problem: problem.map(str::to_owned),
        blocks: vec![],
        withdrawn: vec![],
    };
    let (name, revision) = ("agent-1".to_owned(), Revision::default());
    NodeState::new(name, revision, vec![overlay], vec![])
        .write(state_dir)
        .unwrap();
}

/// Publishes the overlay `vxlan-1` with blocks.
fn publish_blocks(state_dir: &Path, blocks: &[&str]) {
    let overlay = LocalOverlay {
        name: "vxlan-1".to_owned(),
        vni: 4097,
        subnet: None,
        subnet6: None,
        mtu: 1450,
        groups: None,
        problem: None,
        blocks: blocks.iter().map(|block| block.parse().unwrap()).collect(),
        withdrawn: vec![],
    };
    let (name, revision) = ("agent-1".to_owned(), Revision::default());
    NodeState::new(name, revision, vec![overlay], vec![])
        .write(state_dir)
        .unwrap();
}

fn on_network(name: &[u8]) -> ContainerConfig {
    ContainerConfig {
        container_info: Some(ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos: vec![NetworkInfo {
                name: Some(name.to_vec()),
                ..NetworkInfo::default()
            }],
        }),
        ..ContainerConfig::default()
    }
}

#[test]
fn debug_container_joins_namespaces_of_its_parent() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let root = ContainerId::top_level("root");
        isolator.prepare(&root, on_network(b"blue")).await.unwrap();
        let debug = ContainerConfig {
            container_class: Some(ContainerClass::Debug.into()),
            // Its own request is ignored.
            ..on_network(b"blue")
        };
        let nested = root.nested("task").nested("check");
        let launch = isolator.prepare(&nested, debug).await.unwrap().unwrap();
        assert_eq!(
            launch.enter_namespaces,
            [
                CloneFlags::CLONE_NEWNET.bits(),
                CloneFlags::CLONE_NEWUTS.bits()
            ]
        );
        assert!(launch.clone_namespaces.is_empty() && launch.mounts.is_empty());
        assert_eq!(isolator.status(&nested), isolator.status(&root));
        isolator.isolate(&nested, 1).await.unwrap();
        isolator.cleanup(&nested).await.unwrap();
        assert_eq!(isolator.status(&root).network_infos.len(), 1);
        isolator.cleanup(&root).await.unwrap();
        assert_eq!(isolator.status(&root), ContainerStatus::default());
        assert!(!directory.path().join("state/containers/root").exists());
    });
}

#[test]
fn containers_on_bridges_get_the_name_servers_of_the_node() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let bridge = "provider = 'bridge'\nsubnet =";
        let toml = format!(
            "[[network]]\nname = 'blue'\n{bridge} '10.1.0.0/24'\n\
             [[network]]\nname = 'own'\n{bridge} '10.2.0.0/24'\n\
             dns = {{ nameservers = ['10.2.0.53'] }}\n\
             [[network]]\nname = 'routed'\n{bridge} '10.3.0.0/24'\nroutes = ['198.18.0.0/16']\n\
             [[network]]\nname = 'closed'\n{bridge} '10.4.0.0/24'\nroutes = ['10.9.0.0/16']\n\
             [[network]]\nname = 'none'\nprovider = 'none'"
        );
        let isolator = isolator_with(directory.path(), &toml);
        let servers = async |network: &str| {
            let id = ContainerId::top_level(network);
            let launch = isolator.prepare(&id, on_network(network.as_bytes())).await;
            let mounts = launch.unwrap().unwrap().mounts;
            let mount = mounts
                .iter()
                .find(|mount| mount.target == "/etc/resolv.conf")
                .unwrap();
            let contents = std::fs::read_to_string(mount.source.as_ref().unwrap()).unwrap();
            isolator.cleanup(&id).await.unwrap();
            let lines = contents.lines();
            let servers = lines.filter_map(|line| line.strip_prefix("nameserver "));
            servers.map(str::to_owned).collect::<Vec<_>>()
        };
        let of_host = servers("blue").await;
        let addresses = ["198.18.0.1", "fd4a:9c1e:57b2::1"].map(|text| text.parse().unwrap());
        let state_dir = directory.path().join("state");
        NodeDns::new(addresses.to_vec()).write(&state_dir).unwrap();
        // The container has no address of the other family.
        assert_eq!(servers("blue").await, ["198.18.0.1"]);
        assert_eq!(servers("own").await, ["10.2.0.53"]);
        assert_ne!(servers("none").await, ["198.18.0.1"]);
        // The container must have a way to it.
        assert_eq!(servers("routed").await, ["198.18.0.1"]);
        assert_eq!(servers("closed").await, of_host);
        std::fs::write(NodeDns::path(&state_dir), "{").unwrap();
        assert_eq!(servers("blue").await, of_host);
    });
}

#[test]
fn debug_container_on_host_network_is_left_alone() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let config = ContainerConfig {
            container_class: Some(ContainerClass::Debug.into()),
            ..ContainerConfig::default()
        };
        let nested = ContainerId::top_level("root").nested("check");
        assert_eq!(isolator.prepare(&nested, config).await.unwrap(), None);
    });
}

#[test]
fn network_name_that_is_not_utf8_is_refused() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let id = ContainerId::top_level("c1");
        let error = isolator
            .prepare(&id, on_network(b"bl\xffue"))
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("unknown network \"bl\u{fffd}ue\""),
            "{error}"
        );
        isolator.cleanup(&id).await.unwrap();
        assert!(!directory.path().join("state/containers/c1").exists());
    });
}

#[test]
fn truncated_requests_do_not_affect_other_containers() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let neighbour = ContainerId::top_level("neighbour");
        isolator
            .prepare(&neighbour, on_network(b"blue"))
            .await
            .unwrap();
        let before = isolator.status(&neighbour);
        let bytes = on_network(b"blue").encode_to_vec();
        for length in 0..bytes.len() {
            let Ok(config) = ContainerConfig::decode(&bytes[..length]) else {
                continue;
            };
            let id = ContainerId::top_level(&format!("cut{length}"));
            // Refused or prepared, it can be cleaned up.
            let _ = isolator.prepare(&id, config).await;
            isolator.cleanup(&id).await.unwrap();
        }
        assert_eq!(isolator.status(&neighbour), before);
        isolator.cleanup(&neighbour).await.unwrap();
    });
}

#[test]
fn isolate_of_ended_process_fails_and_can_be_cleaned_up() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let id = ContainerId::top_level("c1");
        isolator.prepare(&id, on_network(b"blue")).await.unwrap();
        // Larger than any process id can be.
        let error = isolator.isolate(&id, 1 << 30).await.unwrap_err();
        assert!(
            error.to_string().contains("has its process ended"),
            "{error}"
        );
        isolator.cleanup(&id).await.unwrap();
        // Again, and for a container that was never prepared.
        isolator.cleanup(&id).await.unwrap();
        isolator
            .cleanup(&ContainerId::top_level("never"))
            .await
            .unwrap();
    });
}

#[test]
fn second_prepare_of_same_container_is_refused() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let id = ContainerId::top_level("c1");
        isolator.prepare(&id, on_network(b"blue")).await.unwrap();
        let error = isolator
            .prepare(&id, on_network(b"blue"))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("already has networks"),
            "{error}"
        );
        isolator.cleanup(&id).await.unwrap();
    });
}

/// A process in network and UTS namespaces of its own, which ends with this.
pub(super) struct ProcessInNamespace(pub(super) std::process::Child);

impl ProcessInNamespace {
    /// With the interface eth0.
    fn start(address: &str) -> Self {
        Self::run(&format!(
            "ip link add eth0 type veth peer name peer0 && ip address add {address} dev eth0"
        ))
    }

    #[expect(clippy::disallowed_methods, reason = "a test runs in no agent")]
    pub(super) fn run(commands: &str) -> Self {
        let script = format!("{commands} && echo ready && exec sleep 100");
        let mut child = std::process::Command::new("unshare")
            .args(["--net", "--uts", "--", "sh", "-c", &script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for ProcessInNamespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn living_container_without_checkpoint_keeps_its_addresses() {
    for provider in [
        "provider = 'bridge'\nsubnet = '10.1.0.0/24'",
        "provider = 'overlay'\noverlay = 'vxlan-1'",
    ] {
        recover_without_checkpoint(provider);
    }
}

fn recover_without_checkpoint(provider: &'static str) {
    isolated_async(move || async move {
        let directory = tempfile::tempdir().unwrap();
        publish(&directory.path().join("state"), "10.1.0.0/24", None);
        let toml = format!("[[network]]\nname = 'blue'\n{provider}");
        let isolator = isolator_with(directory.path(), &toml);
        let process = ProcessInNamespace::start("10.1.0.2/24");
        let root = ContainerId::top_level("root");
        let state = ContainerState {
            container_id: mesos::ContainerId::from(&root),
            pid: process.0.id().into(),
            container_info: on_network(b"blue").container_info,
            ..ContainerState::default()
        };
        isolator.recover(vec![state], vec![]).await.unwrap();
        let shown = isolator.status(&root);
        assert_eq!(shown.network_infos.len(), 1);
        assert_eq!(
            shown.network_infos[0].ip_addresses[0].ip_address.as_deref(),
            Some(b"10.1.0.2".as_slice())
        );
        // Nested containers join it, whatever they request.
        for (name, class) in [
            ("check", ContainerClass::Debug),
            ("task", ContainerClass::Default),
        ] {
            let config = ContainerConfig {
                container_class: Some(class.into()),
                ..ContainerConfig::default()
            };
            let nested = root.nested(name);
            let launch = isolator.prepare(&nested, config).await.unwrap().unwrap();
            assert!(
                launch
                    .enter_namespaces
                    .contains(&CloneFlags::CLONE_NEWNET.bits()),
                "{name} gets the host's network"
            );
        }
        let other = ContainerId::top_level("other");
        isolator.prepare(&other, on_network(b"blue")).await.unwrap();
        assert_ne!(
            isolator.status(&other).network_infos[0].ip_addresses,
            shown.network_infos[0].ip_addresses
        );
        let lease = directory.path().join("state/networks/blue/10.1.0.2");
        assert!(lease.exists());
        isolator.cleanup(&root).await.unwrap();
        assert!(!lease.exists());
        assert_eq!(isolator.status(&root), ContainerStatus::default());
        isolator.cleanup(&other).await.unwrap();
    });
}

#[test]
fn ended_nested_container_is_not_reported_as_its_parent() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let root = ContainerId::top_level("root");
        isolator.prepare(&root, on_network(b"blue")).await.unwrap();
        let nested = root.nested("task");
        isolator
            .prepare(&nested, on_network(b"blue"))
            .await
            .unwrap();
        let addresses = isolator.status(&nested).network_infos;
        let status = mesos::TaskStatus {
            container_status: Some(ContainerStatus {
                container_id: Some(mesos::ContainerId::from(&nested)),
                cgroup_info: Some(vec![8, 1]),
                ..ContainerStatus::default()
            }),
            ..mesos::TaskStatus::default()
        };
        let living = isolator.decorate_status("f", &status).unwrap();
        assert_eq!(living.container_status, None);
        isolator.cleanup(&nested).await.unwrap();
        assert_eq!(isolator.status(&nested), ContainerStatus::default());
        let ended = isolator.decorate_status("f", &status).unwrap();
        assert_eq!(ended.labels, living.labels);
        let container_status = ended.container_status.unwrap();
        assert_eq!(container_status.network_infos, addresses);
        assert_eq!(container_status.cgroup_info, Some(vec![8, 1]));
        // Forgotten with its root.
        isolator.cleanup(&root).await.unwrap();
        assert_eq!(isolator.decorate_status("f", &status), None);
    });
}

#[test]
fn launch_on_an_overlay_waits_for_the_node_daemon_and_then_needs_it_no_more() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let start = || {
            isolator_with(
                directory.path(),
                "[deadlines]\nprepare = '3s'\n\
                 [[network]]\nname = 'blue'\nprovider = 'overlay'\noverlay = 'vxlan-1'",
            )
        };
        let isolator = start();
        let refused = ContainerId::top_level("refused");
        let error = isolator
            .prepare(&refused, on_network(b"blue"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("overlays.json does not exist"), "{error}");
        isolator.cleanup(&refused).await.unwrap();
        assert!(!state_dir.join("containers/refused").exists());

        let id = ContainerId::top_level("660a305f-10e4-47fd-a5fc-50e48147423b");
        let published = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            publish(&state_dir, "9.0.1.0/25", None);
        };
        let (prepared, ()) = tokio::join!(isolator.prepare(&id, on_network(b"blue")), published);
        prepared.unwrap();
        let process = ProcessInNamespace::run("true");
        isolator.isolate(&id, process.0.id()).await.unwrap();
        let address = |isolator: &Isolator| {
            let status = isolator.status(&id);
            status.network_infos[0].ip_addresses[0].ip_address.clone()
        };
        assert_eq!(address(&isolator).as_deref(), Some(b"9.0.1.2".as_slice()));

        publish(&state_dir, "9.0.1.0/25", Some("it is disabled"));
        let error = isolator
            .prepare(&refused, on_network(b"blue"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("it is disabled"), "{error}");
        isolator.cleanup(&refused).await.unwrap();

        std::fs::remove_file(NodeState::path(&state_dir)).unwrap();
        drop(isolator);
        let isolator = start();
        let state = ContainerState {
            container_id: mesos::ContainerId::from(&id),
            pid: process.0.id().into(),
            container_info: on_network(b"blue").container_info,
            ..ContainerState::default()
        };
        isolator.recover(vec![state], vec![]).await.unwrap();
        assert_eq!(address(&isolator).as_deref(), Some(b"9.0.1.2".as_slice()));
        isolator.cleanup(&id).await.unwrap();
        assert_eq!(link_names(), Vec::<String>::new());
        assert!(!state_dir.join("networks/blue").exists());
    });
}

#[test]
fn launch_without_a_free_address_waits_for_another_block() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let isolator = isolator_with(
            directory.path(),
            "[deadlines]\nprepare = '3s'\n\
             [[network]]\nname = 'blue'\nprovider = 'overlay'\noverlay = 'vxlan-1'",
        );
        publish_blocks(&state_dir, &["9.0.1.0/30"]);
        let ids = ["one", "two", "three"].map(ContainerId::top_level);
        let process = ProcessInNamespace::run("true");
        isolator
            .prepare(&ids[0], on_network(b"blue"))
            .await
            .unwrap();
        let published = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            publish_blocks(&state_dir, &["9.0.1.0/30", "9.0.7.4/30"]);
        };
        let (prepared, ()) =
            tokio::join!(isolator.prepare(&ids[1], on_network(b"blue")), published);
        prepared.unwrap();
        isolator.isolate(&ids[1], process.0.id()).await.unwrap();
        let status = isolator.status(&ids[1]);
        let address = status.network_infos[0].ip_addresses[0].ip_address.clone();
        assert_eq!(address.as_deref(), Some(b"9.0.7.6".as_slice()));
        let error = isolator
            .prepare(&ids[2], on_network(b"blue"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("9.0.1.0/30, 9.0.7.4/30"), "{error}");
        assert!(error.contains("managers"), "{error}");
        // A block that is withdrawn gives no address any more.
        isolator.cleanup(&ids[0]).await.unwrap();
        publish_blocks(&state_dir, &["9.0.7.4/30"]);
        isolator
            .prepare(&ids[0], on_network(b"blue"))
            .await
            .unwrap_err();
        for id in &ids {
            isolator.cleanup(id).await.unwrap();
        }
        assert_eq!(link_names(), Vec::<String>::new());
        assert!(!state_dir.join("networks/blue").exists());
    });
}
