//! Containers in each state, as another process than the agent sees them. Needs root.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::config::Source;
use crate::isolator::Isolator;
use crate::isolator::root_tests::{ProcessInNamespace, isolator_with};
use crate::net::testing::{isolated_async, run};
use crate::proto::mesos::slave::ContainerConfig;
use crate::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
use contrail_mesos_api::container::ContainerId;
use tokio::sync::mpsc::unbounded_channel;

const ONE: &str = "11111111-aaaa-4bbb-8ccc-000000000001";
const TWO: &str = "22222222-aaaa-4bbb-8ccc-000000000002";
/// Networks of the test's own: an address that a process of another test has is not free.
const NETWORKS: &str = "[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.211.1.0/24'\n\
                        [[network]]\nname = 'closed'\nprovider = 'bridge'\nsubnet = '10.211.2.0/24'\n\
                        groups = true\n[[network]]\nname = 'no'\nprovider = 'none'\n";

fn config(networks: &[&str]) -> ContainerConfig {
    let info = |name: &&str| NetworkInfo {
        name: Some(name.as_bytes().to_vec()),
        ..NetworkInfo::default()
    };
    ContainerConfig {
        container_info: Some(ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos: networks.iter().map(info).collect(),
        }),
        ..ContainerConfig::default()
    }
}

/// Launches a container as the agent does.
async fn launch(isolator: &Arc<Isolator>, id: &str, networks: &[&str]) -> ProcessInNamespace {
    let id = ContainerId::top_level(id);
    isolator.prepare(&id, config(networks)).await.unwrap();
    let process = ProcessInNamespace::run("true");
    isolator.isolate(&id, process.0.id()).await.unwrap();
    process
}

async fn statuses(attacher: &Attacher, filter: &ContainerFilter) -> Vec<ContainerStatus> {
    let depth = InspectionDepth::Everything;
    let (containers, problems) = attacher.container_statuses(filter, depth).await.unwrap();
    assert_eq!(problems, [""; 0]);
    containers
}

/// The states of all containers, with the problems of their networks.
async fn states(attacher: &Attacher) -> Vec<(ContainerState, String)> {
    let containers = statuses(attacher, &ContainerFilter::default()).await;
    let state = |container: ContainerStatus| {
        let problems = container.networks.into_iter().flat_map(|row| row.problems);
        (container.state, problems.collect::<Vec<_>>().join("\n"))
    };
    containers.into_iter().map(state).collect()
}

#[test]
fn container_has_each_state_in_turn() {
    isolated_async(|| async {
        use ContainerState::{Attached, Attaching, Damaged, Degraded, Detaching, Lost};
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator_with(directory.path(), NETWORKS);
        let source = Source::file(directory.path().join("agent.toml"));
        let (lost, _receiver) = unbounded_channel();
        let attacher = Attacher::new(&source.load().unwrap(), lost).unwrap();
        let _one = launch(&isolator, ONE, &["blue"]).await;
        assert_eq!(states(&attacher).await, [(Attached, String::new())]);
        let found = statuses(&attacher, &ContainerFilter::default()).await;
        assert!(found[0].attached_since.is_some() && found[0].networks[0].statistics.is_some());

        let two = ContainerId::top_level(TWO);
        let process = launch(&isolator, TWO, &["no"]).await;
        assert_eq!(states(&attacher).await[1], (Attached, String::new()));
        let handle = directory.path().join("netns").join(TWO);
        run(
            "nsenter",
            &format!("--net={} ip link set lo down", handle.display()),
        );
        let (state, problems) = states(&attacher).await.remove(1);
        assert_eq!(
            (state, &*problems),
            (Degraded, "in the container: lo is down")
        );
        drop(process);
        isolator.cleanup(&two).await.unwrap();

        // Only reserved.
        isolator.prepare(&two, config(&["blue"])).await.unwrap();
        assert_eq!(states(&attacher).await[1].0, Attaching);
        isolator.cleanup(&two).await.unwrap();

        // Without the node daemon, nothing reaches a container whose groups are isolated.
        let two_process = launch(&isolator, TWO, &["closed"]).await;
        let (state, problems) = states(&attacher).await.remove(1);
        assert!(
            state == Degraded && problems.contains("no rules for 10.211.2."),
            "{problems}"
        );
        drop(two_process);
        isolator.cleanup(&two).await.unwrap();

        // The addresses are known as long as they are in use.
        let container = ContainerId::top_level(ONE);
        let checkpoints = attacher.checkpoints();
        checkpoints.begin_detach(&container).unwrap();
        assert_eq!(states(&attacher).await[0].0, Detaching);
        let with_address = ContainerFilter {
            addresses: vec!["10.211.1.2/32".parse().unwrap()],
            states: vec![Detaching],
            ..ContainerFilter::default()
        };
        assert_eq!(statuses(&attacher, &with_address).await.len(), 1);
        let (attachments, _) = checkpoints.detaching(&container).unwrap();
        checkpoints
            .write_attachments(&container, &attachments)
            .unwrap();
        assert_eq!(states(&attacher).await, [(Attached, String::new())]);

        let host_end = container.host_interface("eth0");
        run("ip", &format!("link delete {host_end}"));
        assert_eq!(states(&attacher).await[0].0, Lost);
        let intent = checkpoints.directory(&container).join("intent.json");
        fs::write(intent, "{").unwrap();
        let found = statuses(&attacher, &ContainerFilter::default()).await;
        assert_eq!((found[0].state, found[0].networks.len()), (Damaged, 0));
    });
}
