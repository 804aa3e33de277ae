//! The plugin with a scripted vRouter agent and managers, in network namespaces. Needs root.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;
use crate::net::testing::{inside, isolated_async, link_names, namespace, run as command};
use contrail_mesos_api::http::scripted::{ReceivedRequest, Reply, ScriptedServer, ok};

mod configuration;
mod faults;
mod lifecycle;

const ID: &str = "660a305f-10e4-47fd-a5fc-50e48147423b";
const INTERFACE: &str = "f8d8b4f1-0c3e-4d6c-9b6a-18d678ace500";
const NETWORK: &str = "b2d8b4f1-0c3e-4d6c-9b6a-18d678ace501";

/// Faults of the vRouter agent of a test.
#[derive(Default)]
struct Faults {
    /// How many polls it takes until it has the container's configuration.
    polls_until_configured: AtomicUsize,
    /// It reports no address.
    no_address: AtomicBool,
    /// It does not respond to a DELETE.
    hangs: AtomicBool,
}

/// A scripted vRouter agent that has one container with one or more interfaces.
struct FakeVrouterAgent {
    server: ScriptedServer,
    faults: Arc<Faults>,
    /// The registered interfaces.
    registered: Arc<Mutex<Vec<String>>>,
}

fn uuid(index: usize) -> String {
    format!("{}{index}", &INTERFACE[..INTERFACE.len() - 1])
}

fn mac(index: usize) -> String {
    format!("02:18:d6:78:ac:e{index}")
}

impl FakeVrouterAgent {
    async fn start(vm_uuid: &str, count: usize, annotations: &[&str]) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), vm_uuid, count, annotations).await
    }

    async fn start_at(
        address: std::net::SocketAddr,
        vm_uuid: &str,
        count: usize,
        annotations: &[&str],
    ) -> Self {
        let faults = Arc::new(Faults::default());
        let registered = Arc::new(Mutex::new(Vec::<String>::new()));
        let registered_interfaces = Arc::clone(&registered);
        let (vm_uuid, faults_of_agent) = (vm_uuid.to_owned(), Arc::clone(&faults));
        let annotations: Vec<String> = annotations.iter().map(ToString::to_string).collect();
        let script = move |request: &ReceivedRequest, _: usize| {
            let config = |index: usize| {
                let mut all = vec![format!("{{index:{index}/{count}}}")];
                all.extend(annotations.clone());
                json!({
                    "id": uuid(index), "instance-id": vm_uuid, "vn-id": NETWORK,
                    "vn-name": format!("default-domain:p:net{index}"), "mac-address": mac(index),
                    "sub-interface": false, "vlan-id": 65535, "annotations": all,
                })
            };
            let plugged = |index: usize| {
                json!({
                    "id": uuid(index), "instance-id": vm_uuid, "vn-id": NETWORK,
                    "mac-address": mac(index), "system-name": "tap", "ip-address":
                    format!("10.47.255.{}", 252 - index), "plen": 12, "gateway": "10.47.255.254",
                    "dns-server": "10.47.255.253",
                })
            };
            let missing = || Reply::Answer(404, r#"{"error":"{ Not Found }"}"#.to_owned());
            let mut registered = registered.lock().unwrap();
            let line = request.line();
            if line == format!("GET /vm-cfg/{vm_uuid}") {
                if faults_of_agent
                    .polls_until_configured
                    .load(Ordering::Relaxed)
                    > 0
                {
                    faults_of_agent
                        .polls_until_configured
                        .fetch_sub(1, Ordering::Relaxed);
                    return missing();
                }
                // Sorted by uuid, not by index.
                let all: Vec<Value> = (0..count).rev().map(config).collect();
                return ok(&json!(all));
            }
            if line == "POST /vm" {
                let body = request.json();
                registered.push(body["vmi-uuid"].as_str().unwrap().to_owned());
                return ok(&"{}");
            }
            if line == format!("GET /vm/{vm_uuid}") {
                if registered.is_empty() || faults_of_agent.no_address.load(Ordering::Relaxed) {
                    return missing();
                }
                let all: Vec<Value> = (0..count)
                    .filter(|index| registered.contains(&uuid(*index)))
                    .map(plugged)
                    .collect();
                return ok(&json!(all));
            }
            if line == format!("DELETE /vm/{vm_uuid}") {
                if faults_of_agent.hangs.load(Ordering::Relaxed) {
                    return Reply::Hang;
                }
                // It finds them by their configuration.
                if faults_of_agent
                    .polls_until_configured
                    .load(Ordering::Relaxed)
                    == 0
                {
                    registered.clear();
                }
                return ok(&"{}");
            }
            Reply::Answer(404, r#"{"error":"Unknown Request"}"#.to_owned())
        };
        Self {
            server: ScriptedServer::start_at(address, None, script).await,
            faults,
            registered: registered_interfaces,
        }
    }
}

/// A container's network namespace, and the directory of port files.
struct TestHost {
    namespace: OwnedFd,
    directory: TempDir,
}

impl TestHost {
    fn new() -> Self {
        Self {
            namespace: namespace(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A configuration for that agent, with additional keys in `contrail`.
    fn config(&self, agent: &FakeVrouterAgent, version: &str, more: &Value) -> Value {
        let mut contrail = json!({
            "vrouter-ip": "127.0.0.1", "vrouter-port": agent.server.address.port(),
            "config-dir": self.directory.path().join("ports"), "cluster-name": "node-1",
            "poll-timeout": 1, "poll-retries": 2, "an-unknown-key": { "is": "ignored" },
        });
        for (key, value) in more.as_object().unwrap() {
            contrail[key] = value.clone();
        }
        json!({
            "cniVersion": version, "name": "contrail-cni-plugin", "type": "contrail-cni-plugin",
            "contrail": contrail,
        })
    }

    fn environment(&self, command: &str, id: &str) -> BTreeMap<String, String> {
        self.environment_of(command, id, "eth0")
    }

    fn environment_of(&self, command: &str, id: &str, interface: &str) -> BTreeMap<String, String> {
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.namespace.as_raw_fd()
        );
        let pairs = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", id),
            ("CNI_IFNAME", interface),
            ("CNI_NETNS", &path),
            ("CNI_PATH", "/usr/lib/cni"),
        ];
        pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The plugin's output, and whether it succeeded.
    async fn call(&self, command: &str, config: &Value) -> (Value, bool) {
        self.call_of(command, ID, config).await
    }

    async fn call_of(&self, command: &str, id: &str, config: &Value) -> (Value, bool) {
        let input = config.to_string();
        let output = run(&self.environment(command, id), input.as_bytes()).await;
        let result = match output.stdout.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap(),
        };
        (result, output.is_success)
    }

    async fn add(&self, config: &Value) -> Value {
        let (result, is_success) = self.call("ADD", config).await;
        assert!(is_success, "{result}");
        result
    }

    async fn del(&self, config: &Value) {
        let (result, is_success) = self.call("DEL", config).await;
        assert!(is_success, "{result}");
        assert_eq!(result, Value::Null);
    }

    async fn fails(&self, command: &str, config: &Value) -> Value {
        let (result, is_success) = self.call(command, config).await;
        assert!(!is_success, "{result}");
        assert_eq!(result["cniVersion"], config["cniVersion"]);
        result
    }

    fn port_files(&self) -> Vec<PathBuf> {
        let directories = std::fs::read_dir(self.directory.path().join("ports"));
        directories
            .into_iter()
            .flatten()
            .flat_map(|vm_uuid| {
                std::fs::read_dir(vm_uuid.unwrap().path())
                    .unwrap()
                    .map(|file| file.unwrap().path())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    fn assert_clean(&self) {
        assert_eq!(link_names(), Vec::<String>::new());
        assert_eq!(self.port_files(), Vec::<PathBuf>::new());
        assert_eq!(inside(&self.namespace, link_names), Vec::<String>::new());
    }
}
