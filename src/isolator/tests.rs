//! What the local cluster of the other tests cannot do: DEBUG containers, and bytes that no
//! framework can send by its JSON API. Each test has a host of its own, and needs root.

use std::path::Path;

use nix::sched::CloneFlags;
use prost::Message as _;

use super::*;
use crate::net::testing::isolated_async;
use crate::proto::mesos::slave::{ContainerClass, ContainerConfig};
use crate::proto::mesos::{ContainerInfo, NetworkInfo, container_info};

fn isolator(directory: &Path) -> Arc<Isolator> {
    let path = directory.join("agent.toml");
    let text = format!(
        "state_dir = '{0}/state'\nnetns_dir = '{0}/netns'\n\
         [[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.1.0.0/24'",
        directory.display()
    );
    std::fs::write(&path, text).unwrap();
    Isolator::new(&[("config".to_owned(), path.display().to_string())]).unwrap()
}

fn on(name: &[u8]) -> ContainerConfig {
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
fn a_debug_container_enters_its_parents_namespaces_and_makes_none() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let root = ContainerId::top_level("root");
        isolator.prepare(&root, on(b"blue")).await.unwrap();
        let debug = ContainerConfig {
            container_class: Some(ContainerClass::Debug.into()),
            // Even if it asks for a network: it looks at its parent's.
            ..on(b"blue")
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
fn a_debug_container_on_the_host_network_stays_there() {
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
fn a_name_that_is_not_utf8_is_refused_and_leaves_nothing() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let id = ContainerId::top_level("c1");
        let error = isolator.prepare(&id, on(b"bl\xffue")).await.unwrap_err();
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
fn bytes_cut_at_every_length_harm_nobody() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let neighbour = ContainerId::top_level("neighbour");
        isolator.prepare(&neighbour, on(b"blue")).await.unwrap();
        let before = isolator.status(&neighbour);
        let bytes = on(b"blue").encode_to_vec();
        for length in 0..bytes.len() {
            let Ok(config) = ContainerConfig::decode(&bytes[..length]) else {
                continue;
            };
            let id = ContainerId::top_level(&format!("cut{length}"));
            // Whatever it means now, it can be cleaned up.
            let _ = isolator.prepare(&id, config).await;
            isolator.cleanup(&id).await.unwrap();
        }
        assert_eq!(isolator.status(&neighbour), before);
        isolator.cleanup(&neighbour).await.unwrap();
    });
}

#[test]
fn a_process_that_is_gone_before_isolate_fails_that_container_only() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let id = ContainerId::top_level("c1");
        isolator.prepare(&id, on(b"blue")).await.unwrap();
        // Larger than any process id can be.
        let error = isolator.isolate(&id, 1 << 30).await.unwrap_err();
        assert!(
            error.to_string().contains("has its process ended"),
            "{error}"
        );
        isolator.cleanup(&id).await.unwrap();
        // Twice, and for one that never was.
        isolator.cleanup(&id).await.unwrap();
        isolator
            .cleanup(&ContainerId::top_level("never"))
            .await
            .unwrap();
    });
}

#[test]
fn a_second_prepare_of_the_same_container_is_refused() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator(directory.path());
        let id = ContainerId::top_level("c1");
        isolator.prepare(&id, on(b"blue")).await.unwrap();
        let error = isolator.prepare(&id, on(b"blue")).await.unwrap_err();
        assert!(
            error.to_string().contains("has networks already"),
            "{error}"
        );
        isolator.cleanup(&id).await.unwrap();
    });
}
