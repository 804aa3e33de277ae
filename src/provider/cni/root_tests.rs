//! Plugins in network namespaces of the test's own: Debian's plugins, and scripts that misbehave.
//! Needs root and containernetworking-plugins.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::config::{Network, NetworkProvider, Source};
use crate::net::netns::handles;
use crate::net::testing::{
    inside, isolated_async, link_names, namespace, nft_ruleset, run, unshare_mounts,
};
use crate::provider::{AddressRequest, PortMapping, Protocol};
use contrail_mesos_api::cluster::Membership;

mod faults;
mod processes;
mod real;
mod teardown;

/// Where Debian's containernetworking-plugins puts them.
const DEBIAN: &str = "/usr/lib/cni";

/// A host: this thread's namespace, with a provider.
struct TestHost {
    provider: CniProvider,
    lost: UnboundedReceiver<LostInterface>,
    place: TempDir,
}

struct Container {
    intent: Intent<CniIntent>,
    attachment: Attachment,
    namespace: OwnedFd,
}

impl TestHost {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        for directory in ["net.d", "bin", "netns", "leases"] {
            fs::create_dir(place.path().join(directory)).unwrap();
        }
        Self::at(place)
    }

    fn at(place: TempDir) -> Self {
        let text = format!(
            "state_dir = '{place}/state'\nnetns_dir = '{place}/netns'\n[cni]\nconfig_dir = '{place}/net.d'\nplugin_dirs = ['{place}/bin', '{DEBIAN}']\ndeadline = '5s'\n",
            place = place.path().display()
        );
        fs::write(place.path().join("agent.toml"), text).unwrap();
        let (sender, lost) = unbounded_channel();
        let config = Source::file(place.path().join("agent.toml"))
            .load()
            .unwrap();
        Self {
            provider: CniProvider::new(&config, sender).unwrap(),
            lost,
            place,
        }
    }

    /// Restarts the agent after a kill.
    fn restart(self) -> Self {
        let Self { place, .. } = self;
        Self::at(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Adds a network to CNI's directory.
    fn network(&self, config: &Value) -> Network {
        let name = config["name"].as_str().unwrap();
        let file = self.path("net.d").join(format!("{name}.conf"));
        fs::write(file, config.to_string()).unwrap();
        let config = Source::file(self.path("agent.toml")).load().unwrap();
        config.network(name).unwrap().clone()
    }

    /// Installs a script as a plugin; it finds the test's directory in `$place`.
    fn script(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        let place = self.place.path().display();
        fs::write(&path, format!("#!/bin/sh\nplace={place}\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The content of `$place/<name>`, which scripts write.
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn host_local(&self) -> Value {
        json!({
            "type": "host-local", "dataDir": self.path("leases"),
            "ranges": [[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd00:77::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }]
        })
    }

    fn leases(&self) -> usize {
        let networks = fs::read_dir(self.path("leases")).unwrap();
        networks
            .flat_map(|network| fs::read_dir(network.unwrap().path()).unwrap())
            .filter(|file| {
                let name = file.as_ref().unwrap().file_name();
                name.to_str().unwrap().contains(['.', ':'])
                    && !name.to_str().unwrap().contains("last")
            })
            .count()
    }

    async fn intent(&self, request: &NetworkRequest) -> Result<Intent<CniIntent>, String> {
        let NetworkProvider::Cni(network) = &request.network.provider else {
            panic!("a network of another provider")
        };
        self.provider
            .validate(request, network)
            .map_err(|errors| errors.to_string())?;
        let reserved = self.provider.reserve(request, network).await;
        let intent = reserved.map_err(|error| error.to_string())?;
        // A restart reads it from disk.
        let json = serde_json::to_string(&intent).unwrap();
        Ok(serde_json::from_str(&json).unwrap())
    }

    async fn attach(&self, request: &NetworkRequest) -> Result<Container, String> {
        let intent = self.intent(request).await?;
        let namespace = namespace();
        // The isolator does this concurrently.
        let handle = self.handle(&intent);
        handles::pin(&namespace, &handle).unwrap();
        let attached = self
            .provider
            .attach_all(std::slice::from_ref(&intent), namespace.as_fd())
            .await;
        match attached {
            Ok(mut attachments) => Ok(Container {
                attachment: attachments.remove(0),
                intent,
                namespace,
            }),
            Err(errors) => {
                self.provider
                    .detach_all(std::slice::from_ref(&intent))
                    .await
                    .map_err(|errors| errors.to_string())?;
                handles::unpin(&handle).unwrap();
                Err(errors.to_string())
            }
        }
    }

    async fn detach(&self, container: Container) {
        self.provider
            .detach_all(std::slice::from_ref(&container.intent))
            .await
            .unwrap();
        handles::unpin(&self.handle(&container.intent)).unwrap();
    }

    fn handle(&self, intent: &Intent<CniIntent>) -> PathBuf {
        self.path("netns").join(intent.container.file_name())
    }

    /// How many DELs of an interface have failed, and the last error.
    fn pending_teardown(&self, intent: &Intent<CniIntent>) -> Option<(u32, String)> {
        let record = self.provider.driver.records.read(intent)?;
        let teardown = record.teardown?;
        Some((teardown.failures, teardown.error))
    }

    /// Waits until a script has written `$place/<name>`.
    async fn await_file(&self, name: &str) -> String {
        loop {
            let content = self.read(name);
            if content.ends_with('\n') {
                return content;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Fails if a lease or a record is left.
    fn assert_clean(&self) {
        assert_eq!(self.leases(), 0);
        assert_eq!(self.records(), 0);
    }

    /// How many containers have a record.
    fn records(&self) -> usize {
        fs::read_dir(self.path("state/cni")).map_or(0, Iterator::count)
    }
}

fn request(container: &str, network: &Network) -> NetworkRequest {
    NetworkRequest {
        container: ContainerId::top_level(container),
        interface: "eth0".to_owned(),
        network: network.clone(),
        addresses: vec![AddressRequest::Any],
        ports: vec![],
        membership: Membership::default(),
        labels: std::collections::BTreeMap::new(),
        info: crate::proto::mesos::NetworkInfo {
            name: Some(network.name.clone().into_bytes()),
            ..crate::proto::mesos::NetworkInfo::default()
        },
    }
}

impl Container {
    fn addresses(&self) -> Vec<String> {
        let addresses = self.attachment.addresses.iter();
        addresses.map(ToString::to_string).collect()
    }

    fn inside(&self, program: &'static str, arguments: &'static str) -> String {
        inside(&self.namespace, move || run(program, arguments))
    }
}
