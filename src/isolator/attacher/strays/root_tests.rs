//! A live container beside strays of every kind. Each test has namespaces of its own, and needs root.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::config::Source;
use crate::isolator::Isolator;
use crate::isolator::checkpoint::Checkpoint;
use crate::isolator::root_tests::{ProcessInNamespace, isolator_with};
use crate::net::testing::{isolated_async, link_names, nft_ruleset, run};
use crate::proto::mesos::network_info::PortMapping;
use crate::proto::mesos::slave::ContainerConfig;
use crate::proto::mesos::{ContainerInfo, NetworkInfo, Resource, container_info};
use tokio::sync::mpsc::unbounded_channel;

const LIVE: &str = "11111111-aaaa-4bbb-8ccc-000000000001";
const DEAD: &str = "22222222-aaaa-4bbb-8ccc-000000000002";
const DAMAGED: &str = "33333333-aaaa-4bbb-8ccc-000000000003";

/// Networks of a test's own: an address that a process of another test has is not free.
fn networks(octet: u8) -> String {
    format!(
        "[ports]\nallow = ['30000-30010']\n\
         [[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.{octet}.1.0/24'\n\
         [[network]]\nname = 'green'\nprovider = 'bridge'\nsubnet = '10.{octet}.2.0/24'\n\
         [[network]]\nname = 'closed'\nprovider = 'bridge'\nsubnet = '10.{octet}.3.0/24'\ngroups = true\n"
    )
}

/// An agent's isolator on a host, and the attacher of another process: the command line.
struct TestHost {
    directory: tempfile::TempDir,
    octet: u8,
    isolator: Arc<Isolator>,
    command: Attacher,
}

impl TestHost {
    fn new(octet: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let isolator = isolator_with(directory.path(), &networks(octet));
        let config = Source::file(directory.path().join("agent.toml"));
        let (lost, _) = unbounded_channel();
        let command = Attacher::new(&config.load().unwrap(), lost).unwrap();
        Self {
            directory,
            octet,
            isolator,
            command,
        }
    }

    /// Another agent comes in place of the one that was killed. It knows no container.
    fn replace_agent(&mut self) {
        self.isolator = isolator_with(self.directory.path(), &networks(self.octet));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Launches a container as the agent does.
    async fn launch(&self, id: &str, networks: &[&str], port: Option<u32>) -> ProcessInNamespace {
        let id = ContainerId::top_level(id);
        self.isolator
            .prepare(&id, config(networks, port))
            .await
            .unwrap();
        let process = ProcessInNamespace::run("true");
        self.isolator.isolate(&id, process.0.id()).await.unwrap();
        process
    }

    async fn strays(&self) -> Vec<Stray> {
        self.command.strays().await.unwrap()
    }

    /// What is wrong with the first network of a container.
    async fn problems(&self, id: &str) -> Vec<String> {
        let checkpoint = self.checkpoint(id);
        let intent = &checkpoint.networks[0].intent;
        self.command.inspect(&checkpoint, intent, None).await
    }

    fn checkpoint(&self, id: &str) -> Checkpoint {
        match self.command.checkpoints().find(&ContainerId::top_level(id)) {
            Some(StoredCheckpoint::Intact { checkpoint, .. }) => *checkpoint,
            other => panic!("{other:?}"),
        }
    }

    fn remove_checkpoint(&self, id: &str) {
        fs::remove_dir_all(self.path("state/containers").join(id)).unwrap();
    }
}

fn config(networks: &[&str], port: Option<u32>) -> ContainerConfig {
    let info = |(index, name): (usize, &&str)| NetworkInfo {
        name: Some(name.as_bytes().to_vec()),
        port_mappings: port
            .filter(|_| index == 0)
            .map(|host_port| PortMapping {
                host_port,
                container_port: 80,
                protocol: None,
            })
            .into_iter()
            .collect(),
        ..NetworkInfo::default()
    };
    ContainerConfig {
        container_info: Some(ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos: networks.iter().enumerate().map(info).collect(),
        }),
        resources: Vec::<Resource>::new(),
        ..ContainerConfig::default()
    }
}

fn ping(address: &str) {
    run("ping", &format!("-c 1 -W 5 {address}"));
}

fn kinds(strays: &[Stray]) -> BTreeSet<StrayKind> {
    strays.iter().map(|stray| stray.kind).collect()
}

fn objects(strays: &[Stray], kind: StrayKind) -> Vec<&str> {
    let of_kind = strays.iter().filter(|stray| stray.kind == kind);
    of_kind.map(|stray| stray.object.as_str()).collect()
}

#[test]
fn strays_of_every_kind_are_named_and_repaired() {
    isolated_async(|| async {
        let mut host = TestHost::new(201);
        let _live = host.launch(LIVE, &["blue"], Some(30_001)).await;
        ping("10.201.1.2");
        assert_eq!(host.strays().await, []);
        let before = (link_names(), nft_ruleset());
        // A container that ended, and whose checkpoint is lost.
        drop(
            host.launch(DEAD, &["blue", "green", "closed"], Some(30_002))
                .await,
        );
        host.remove_checkpoint(DEAD);
        host.replace_agent();
        let damaged = host.path("state/containers").join(DAMAGED);
        fs::create_dir_all(&damaged).unwrap();
        fs::write(damaged.join("intent.json"), "{").unwrap();
        fs::remove_file(host.path("state/networks/blue/10.201.1.2")).unwrap();

        let strays = host.strays().await;
        // While a checkpoint is damaged, what containers share may be its container's.
        assert_eq!(
            kinds(&strays),
            BTreeSet::from([
                StrayKind::Interface,
                StrayKind::Bridge,
                StrayKind::NftablesElement,
                StrayKind::RoutingRules,
                StrayKind::Lease,
                StrayKind::MissingLease,
                StrayKind::NamespaceHandle,
                StrayKind::EtcFiles,
                StrayKind::DamagedCheckpoint,
            ]),
            "{strays:#?}"
        );
        assert_eq!(objects(&strays, StrayKind::Interface).len(), 3);
        assert_eq!(objects(&strays, StrayKind::Bridge).len(), 2);
        assert_eq!(objects(&strays, StrayKind::RoutingRules), ["10.201.3.0/24"]);
        assert_eq!(
            objects(&strays, StrayKind::Lease),
            ["10.201.1.3", "10.201.2.2", "10.201.3.2"]
        );
        assert_eq!(objects(&strays, StrayKind::MissingLease), ["10.201.1.2"]);
        assert_eq!(objects(&strays, StrayKind::EtcFiles), [DEAD]);
        let of_dead = |stray: &&Stray| stray.container.as_deref() == Some(DEAD);
        // Interfaces, leases, the mapped port, the handle and the files.
        assert_eq!(strays.iter().filter(of_dead).count(), 9, "{strays:#?}");
        assert!(strays.iter().all(|stray| stray.repair.is_some()));

        host.command.repair_strays(&strays).await.unwrap();
        assert_eq!(host.strays().await, []);
        assert_eq!((link_names(), nft_ruleset()), before);
        assert_eq!(run("ip", "rule list").matches("10.201").count(), 0);
        assert!(host.path("state/networks/blue/10.201.1.2").exists());
        assert!(!host.path("netns").join(DEAD).exists());
        assert_eq!(fs::read_dir(host.path("state/damaged")).unwrap().count(), 1);
        assert_eq!(host.problems(LIVE).await, Vec::<String>::new());
        ping("10.201.1.2");
        host.isolator
            .cleanup(&ContainerId::top_level(LIVE))
            .await
            .unwrap();
        assert_eq!(host.strays().await, []);
    });
}

#[test]
fn container_that_is_alive_without_checkpoint_keeps_everything() {
    isolated_async(|| async {
        let mut host = TestHost::new(202);
        let process = host.launch(LIVE, &["blue"], None).await;
        let before = (link_names(), nft_ruleset());
        host.remove_checkpoint(LIVE);
        host.replace_agent();
        let strays = host.strays().await;
        assert_eq!(kinds(&strays), BTreeSet::from([StrayKind::LivingContainer]));
        assert_eq!(strays[0].container.as_deref(), Some(LIVE));
        assert_eq!(strays[0].repair, None);
        host.command.repair_strays(&strays).await.unwrap();
        assert_eq!(host.strays().await, strays);
        assert_eq!((link_names(), nft_ruleset()), before);
        ping("10.202.1.2");
        drop(process);
        host.command
            .repair_strays(&host.strays().await)
            .await
            .unwrap();
        assert_eq!(host.strays().await, []);
        assert_eq!((link_names(), nft_ruleset()), (vec![], String::new()));
    });
}

#[test]
fn damaged_checkpoint_is_moved_aside_once_its_container_has_ended() {
    isolated_async(|| async {
        let mut host = TestHost::new(203);
        let process = host.launch(LIVE, &["blue"], Some(30_001)).await;
        host.replace_agent();
        let intent = host.path("state/containers").join(LIVE).join("intent.json");
        let contents = fs::read(&intent).unwrap();
        fs::write(&intent, "{").unwrap();
        let strays = host.strays().await;
        assert_eq!(
            kinds(&strays),
            BTreeSet::from([StrayKind::DamagedCheckpoint])
        );
        assert_eq!(strays[0].repair, None, "{strays:?}");
        host.command.repair_strays(&strays).await.unwrap();
        assert!(intent.exists());
        ping("10.203.1.2");
        drop(process);
        let strays = host.strays().await;
        assert!(strays[0].repair.is_some(), "{strays:?}");
        // It was being written.
        fs::write(&intent, &contents).unwrap();
        host.command.repair_strays(&strays).await.unwrap();
        assert!(intent.exists());
        assert_eq!(host.strays().await, []);
        fs::write(&intent, "{").unwrap();
        host.command
            .repair_strays(&host.strays().await)
            .await
            .unwrap();
        assert!(!intent.exists());
        assert_eq!(host.strays().await, []);
        assert_eq!((link_names(), nft_ruleset()), (vec![], String::new()));
    });
}

#[test]
fn file_system_without_containers_is_unmounted() {
    isolated_async(|| async {
        let mut host = TestHost::new(204);
        drop(host.launch(DEAD, &["blue"], None).await);
        let id = ContainerId::top_level(DEAD);
        let files = host.command.etc_storage.find(&id).unwrap();
        let storage = files.parent().unwrap();
        host.remove_checkpoint(DEAD);
        host.replace_agent();
        fs::write(storage.join("note"), "").unwrap();
        let strays = host.strays().await;
        assert_eq!(objects(&strays, StrayKind::EtcFiles), [DEAD, "note"]);
        fs::remove_dir_all(&files).unwrap();
        fs::remove_file(storage.join("note")).unwrap();
        let strays = host.strays().await;
        let mounts = objects(&strays, StrayKind::EtcMount);
        assert_eq!(mounts, [storage.display().to_string()]);
        host.command.repair_strays(&strays).await.unwrap();
        assert!(!storage.exists());
        assert_eq!(host.strays().await, []);
    });
}

#[test]
fn handle_of_another_instance_is_left_alone() {
    isolated_async(|| async {
        let host = TestHost::new(205);
        let _live = host.launch(LIVE, &["blue"], None).await;
        let other = tempfile::tempdir().unwrap();
        let (lost, _) = unbounded_channel();
        let toml = format!(
            "state_dir = '{}'\nnetns_dir = '{}'\n{}",
            other.path().display(),
            host.path("netns").display(),
            networks(205)
        );
        let path = other.path().join("agent.toml");
        fs::write(&path, toml).unwrap();
        let config = Source::file(&path).load().unwrap();
        let command = Attacher::new(&config, lost).unwrap();
        assert_eq!(command.strays().await.unwrap(), []);
        command.repair_strays(&[]).await.unwrap();
        assert_eq!(host.problems(LIVE).await, Vec::<String>::new());
        ping("10.205.1.2");
    });
}

#[test]
fn containers_are_attached_and_detached_beside_repairs() {
    isolated_async(|| async {
        let host = TestHost::new(206);
        let _live = host.launch(LIVE, &["blue"], None).await;
        let lease = host.path("state/networks/blue/10.206.1.200");
        let launches = async {
            for number in 0..8 {
                let id = format!("44444444-aaaa-4bbb-8ccc-{number:012}");
                let process = host.launch(&id, &["blue", "closed"], Some(30_002)).await;
                assert_eq!(host.problems(&id).await, Vec::<String>::new());
                host.isolator
                    .cleanup(&ContainerId::top_level(&id))
                    .await
                    .unwrap();
                drop(process);
            }
        };
        let repairs = async {
            loop {
                // The lease of nobody.
                fs::write(&lease, Path::new("null").as_os_str().as_encoded_bytes()).unwrap();
                let strays = host.command.look().await.unwrap();
                // Also what the second look would leave out.
                host.command.repair_strays(&strays).await.unwrap();
                assert!(!lease.exists());
            }
        };
        tokio::select! {
            () = launches => {}
            () = repairs => unreachable!(),
        }
        host.command
            .repair_strays(&host.strays().await)
            .await
            .unwrap();
        assert_eq!(host.strays().await, []);
        assert_eq!(host.problems(LIVE).await, Vec::<String>::new());
        ping("10.206.1.2");
    });
}

#[test]
fn lease_is_not_restored_after_the_deadline_of_the_lock() {
    isolated_async(|| async {
        let host = TestHost::new(207);
        let _live = host.launch(LIVE, &["blue"], None).await;
        let lease = host.path("state/networks/blue/10.207.1.2");
        fs::remove_file(&lease).unwrap();
        let checkpoints = host.command.checkpoints.clone();
        let expired = move || {
            let held = attached(&checkpoints)?;
            // The host was suspended after the lock was taken.
            Ok(HeldIntents {
                deadline: Instant::now(),
                ..held
            })
        };
        let error = host.command.providers.restore_leases(expired).await;
        assert!(error.unwrap_err().to_string().contains("10.207.1.2"));
        assert!(!lease.exists());
        let strays = host.strays().await;
        assert_eq!(objects(&strays, StrayKind::MissingLease), ["10.207.1.2"]);
        host.command.repair_strays(&strays).await.unwrap();
        assert!(lease.exists());
    });
}
