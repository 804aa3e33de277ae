//! A simulated API server, a scripted Mesos master, and the binary.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::post;
use contrail_mesos_api::agent_api::{self, PortRequest, PortsRequest};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_manager::vnc::{
    FqName, Object as _, VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_manager::{Config, Containers};
use contrail_mesos_sim::vnc::{Handle, Options, Server};
use futures::{StreamExt as _, stream};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_contrail-mesos-manager");
/// Bounds every wait. It is not a limit that a test asserts.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_mins(2);

pub(crate) struct Fixture {
    pub(crate) server: Handle,
    pub(crate) client: VncClient,
    pub(crate) directory: tempfile::TempDir,
    master: std::net::SocketAddr,
    /// The running tasks, by id, with their containers.
    pub(crate) tasks: Arc<Mutex<Vec<(String, Uuid)>>>,
    /// Whether the agent is connected.
    pub(crate) connected: Arc<AtomicBool>,
}

fn state(tasks: &[(String, Uuid)], connected: bool) -> Value {
    let tasks = tasks.iter().map(|(id, machine)| {
        json!({"task_id": {"value": id}, "framework_id": {"value": "F"}, "agent_id": {"value": "S1"},
            "state": "TASK_RUNNING", "statuses": [{"state": "TASK_RUNNING",
                "container_status": {"container_id": {"value": machine}}}]})
    });
    json!({"get_tasks": {"tasks": tasks.collect::<Vec<_>>()}, "get_executors": {},
        "get_agents": {"agents": [
            {"agent_info": {"id": {"value": "S1"}, "hostname": "node1"}, "active": connected}]},
        "get_frameworks": {"frameworks": [
            {"framework_info": {"id": {"value": "F"}, "name": "marathon"}, "active": true}]}})
}

fn answer(state: &Value, asked: &Value) -> Response {
    let body = if asked["type"] == "SUBSCRIBE" {
        let event = json!({"type": "SUBSCRIBED", "subscribed": {"get_state": state}}).to_string();
        let first = format!("{}\n{event}", event.len());
        let first = stream::iter([Ok::<_, std::io::Error>(first)]);
        Body::from_stream(first.chain(stream::pending()))
    } else {
        Body::from(json!({"type": "GET_STATE", "get_state": state}).to_string())
    };
    let response = Response::builder().header(CONTENT_TYPE, "application/json");
    response.body(body).unwrap()
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        let (_, server) = Server::start(Options::default()).await.unwrap();
        let options = VncOptions::new(vec![server_address(&server.url()).unwrap()]);
        let client = VncClient::new(options).unwrap();
        let router = FqName::new(["default-global-system-config", "node1"]);
        client.create(&VirtualRouter::named(router)).await.unwrap();
        let tasks: Arc<Mutex<Vec<(String, Uuid)>>> = Arc::default();
        let connected = Arc::new(AtomicBool::new(true));
        let (run, active) = (tasks.clone(), connected.clone());
        let answer = post(move |body: String| {
            let asked: Value = serde_json::from_str(&body).unwrap();
            let state = state(&run.lock().unwrap(), active.load(Ordering::Relaxed));
            let answer = answer(&state, &asked);
            async move { answer }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let master = listener.local_addr().unwrap();
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/api/v1", answer)).await },
        );
        Self {
            server,
            client,
            directory: tempfile::tempdir().unwrap(),
            master,
            tasks,
            connected,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration: these lines first, and these keys in `[reconcile]`.
    pub(crate) fn configure(&self, top: &str, reconcile: &str) {
        let text = format!(
            "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{top}\n\
             [vnc]\nservers = [\"{}\"]\n[provision]\npod_task_subnets = [\"10.32.0.0/12\"]\n\
             [mesos]\nmasters = \"{}\"\n[reconcile]\nresync = \"200ms\"\n{reconcile}\n",
            self.server.url(),
            self.master
        );
        std::fs::write(self.path("manager.toml"), text).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("--config").arg(self.path("manager.toml"));
        command.env_remove("RUST_LOG");
        command
    }

    /// Runs on a separate thread, because it blocks until the process ends.
    pub(crate) async fn dry_run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.arg("--dry-run").args(arguments);
        let ended = tokio::task::spawn_blocking(move || command.output());
        ended.await.unwrap().unwrap()
    }

    pub(crate) fn spawn_manager(&self) -> ManagerProcess {
        let child = self.command().stderr(Stdio::piped()).spawn();
        ManagerProcess::of(child.unwrap())
    }

    /// Creates a container with one port, as an agent does.
    pub(crate) async fn make(&self, number: u128) -> Uuid {
        let config = Config::load(&self.path("manager.toml")).unwrap();
        let containers = Containers::new(self.client.clone(), &config);
        let machine = Uuid::from_u128(0x660a_305f_10e4_47fd_a5fc_0000_0000_0000 + number);
        let container = ContainerId::top_level(&machine.to_string());
        assert_eq!(agent_api::vm_uuid(&container), machine);
        let port = PortRequest {
            interface: "eth0".to_owned(),
            network: "n".to_owned(),
            virtual_network: None,
            labels: std::collections::BTreeMap::new(),
            addresses: vec![],
        };
        let request = PortsRequest {
            container,
            virtual_router_address: None,
            annotations: std::collections::BTreeMap::new(),
            ports: vec![port],
        };
        containers.put("node1", machine, &request).await.unwrap();
        machine
    }

    /// How many requests have changed an object.
    pub(crate) fn changes(&self) -> usize {
        let log = self.server.log();
        log.iter().filter(|entry| !entry.changes.is_empty()).count()
    }
}

/// A running manager.
pub(crate) struct ManagerProcess {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl ManagerProcess {
    fn of(mut child: Child) -> Self {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let lines_read = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                lines_read.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for `times` lines with this text, and returns the last.
    pub(crate) async fn wait_for_line(&self, text: &str, times: usize) -> String {
        let started = Instant::now();
        loop {
            let log = self.log();
            let found: Vec<_> = log.iter().filter(|line| line.contains(text)).collect();
            if let Some(line) = found.get(times - 1) {
                return (*line).clone();
            }
            assert!(
                started.elapsed() < TEST_TIMEOUT,
                "{text} is not in {log:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The rest of the line after this text.
    pub(crate) async fn address(&self, text: &str) -> String {
        let line = self.wait_for_line(text, 1).await;
        line.split_once(text).unwrap().1.trim().to_owned()
    }

    /// How the process ended, if it did.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(process, signal).unwrap();
    }
}

impl Drop for ManagerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
