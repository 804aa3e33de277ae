//! The services that this host's agent, library and node daemon talk to: whether they answer, and what
//! they say. All are asked at once, each with a time limit.

use std::io;
use std::path::Path;
use std::time::Duration;

use contrail_mesos_api::agent_api::ManagerSetupError;
use contrail_mesos_api::cluster::NodeCondition;
use contrail_mesos_api::http::{Address, Limits};
use contrail_mesos_api::text::{Quoted, excerpt, with_causes};
use futures::future::join_all;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{Check, agent, in_thread};
use crate::config::{Config, Contrail, Node};
use crate::preflight::read_json_from_node_daemon;
use crate::vrouter::{VrouterClient, VrouterOptions};

/// How long a service has to answer.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of a response of the node daemon.
const MAX_STATUS_BYTES: u64 = 16 << 20;
/// The most bytes of a response of `ZooKeeper` that are of interest.
const MAX_ZOOKEEPER_BYTES: usize = 256;
const MASTER_PORT: u16 = 5050;
const ZOOKEEPER_PORT: u16 = 2181;

pub(super) async fn checks(config: Option<&Config>) -> Vec<Check> {
    let Some(config) = config else {
        let text = "which services this host uses is not known without a configuration";
        return vec![Check::warning("service", text, "correct the configuration")];
    };
    let node = &config.node;
    let (mut checks, of_node, of_contrail, vrouter) = tokio::join!(
        in_thread(node.socket.clone(), |socket| node_daemon_checks(&socket)),
        node_managers(node),
        contrail_managers(config.contrail.as_ref()),
        vrouter(config.contrail.as_ref()),
    );
    let needs_daemon = !node.managers.is_empty();
    if !needs_daemon {
        // Bridge networks work without it.
        for check in &mut checks {
            check.severity = check.severity.min(super::Severity::Warning);
        }
    }
    checks.extend(of_node);
    checks.extend(of_contrail);
    checks.extend(vrouter);
    checks
}

/// What is of interest of the state of the node daemon.
#[derive(Debug, Deserialize)]
struct DaemonStatus {
    version: String,
    connection: DaemonConnection,
    subsystems: Vec<DaemonSubsystem>,
}

#[derive(Debug, Deserialize)]
struct DaemonConnection {
    problem: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DaemonSubsystem {
    name: String,
    problems: Vec<String>,
}

fn node_daemon_checks(socket: &Path) -> Vec<Check> {
    let name = "service-node-daemon";
    let shown = Quoted(socket.as_os_str().as_encoded_bytes()).to_string();
    let status = match daemon_status(socket) {
        Ok(status) => status,
        Err(error) => {
            return vec![Check::failure(
                name,
                format!("contrail-mesos-node does not answer at {shown}: {error}"),
                "start it, and see its log; overlay networks, isolated groups and services need it, and it repairs \
                 bridge networks",
            )];
        }
    };
    let version = Quoted(status.version.as_bytes());
    let mut checks = vec![if status.version == env!("CARGO_PKG_VERSION") {
        Check::ok(
            name,
            format!("contrail-mesos-node {version} answers at {shown}"),
        )
    } else {
        Check::warning(
            name,
            format!(
                "contrail-mesos-node at {shown} is version {version}, and this program is version {}",
                env!("CARGO_PKG_VERSION")
            ),
            "install the programs of one version, and restart the daemon",
        )
    }];
    let subsystems = status.subsystems.iter();
    let mut problems: Vec<String> = subsystems
        .flat_map(|subsystem| {
            let problems = subsystem.problems.iter();
            problems.map(|problem| format!("{}: {problem}", subsystem.name))
        })
        .collect();
    problems.extend(status.connection.problem);
    checks.extend(problems.iter().map(|problem| {
        let text = format!(
            "contrail-mesos-node reports: {}",
            excerpt(problem.as_bytes())
        );
        Check::warning(
            name,
            text,
            "see docs/operations.md, \"Messages of the node daemon\"",
        )
    }));
    checks
}

fn daemon_status(socket: &Path) -> io::Result<DaemonStatus> {
    read_json_from_node_daemon(socket, "/v1/status", MAX_STATUS_BYTES)
}

fn limits() -> Limits {
    Limits {
        connect_timeout: TIME_LIMIT / 2,
        request_timeout: TIME_LIMIT,
        max_body_bytes: 64 << 20,
    }
}

/// The managers of `[node]`: each by itself, and what the leader knows of this node.
async fn node_managers(node: &Node) -> Vec<Check> {
    let name = "service-manager";
    if node.managers.is_empty() {
        return vec![];
    }
    // What is wrong with files, the checks of files say.
    let Ok(Some(client)) = node.cluster_client() else {
        return connections(&node.managers).await;
    };
    let (mut checks, list) = tokio::join!(
        connections(&node.managers),
        client.nodes(Instant::now() + TIME_LIMIT)
    );
    checks.push(match list {
        Err(error) => Check::failure(
            name,
            format!("no manager lists the nodes: {}", with_causes(&error)),
            "see the logs of the managers; contrail-mesos status --cluster asks them again",
        ),
        Ok(list) => match list.nodes.iter().find(|known| known.name == node.name) {
            None => Check::warning(
                name,
                format!(
                    "the managers do not know this node, {}",
                    Quoted(node.name.as_bytes())
                ),
                "start contrail-mesos-node, which registers it",
            ),
            Some(known) if known.condition == NodeCondition::Current => Check::ok(
                name,
                format!(
                    "the leading manager has {} nodes, and this one has applied its revision {}",
                    list.nodes.len(),
                    list.revision
                ),
            ),
            Some(known) => Check::warning(
                name,
                format!("by the managers, this node is {}", known.condition),
                "see contrail-mesos status --cluster, and the log of contrail-mesos-node",
            ),
        },
    });
    checks
}

/// The managers of `[contrail]`, which answer for the VNC API.
async fn contrail_managers(contrail: Option<&Contrail>) -> Vec<Check> {
    let name = "service-contrail-manager";
    let Some(contrail) = contrail else {
        return vec![];
    };
    let client = match contrail.manager_client() {
        Ok(client) => client,
        // What is wrong with files, the check of the configuration says.
        Err(ManagerSetupError::Tls(_) | ManagerSetupError::Token { .. }) => {
            return connections(&contrail.managers).await;
        }
        Err(error) => {
            let remedy = "correct agent in [contrail]";
            return vec![Check::failure(name, error.to_string(), remedy)];
        }
    };
    let (mut checks, list) = tokio::join!(
        connections(&contrail.managers),
        client.list(contrail.virtual_router_address, Instant::now() + TIME_LIMIT)
    );
    checks.push(match list {
        Ok(list) => Check::ok(
            name,
            format!(
                "the leading manager reads the VNC API, and has {} containers of this host's virtual-router {}",
                list.containers.len(),
                Quoted(contrail.agent.as_bytes())
            ),
        ),
        Err(error) => Check::failure(
            name,
            format!("no manager lists the ports of this host: {}", with_causes(&error)),
            "see the logs of the managers, and whether the VNC API answers them; agent in [contrail] must be the name \
             of this host's virtual-router",
        ),
    });
    checks
}

/// Whether each of these managers accepts connections.
async fn connections(managers: &[Address]) -> Vec<Check> {
    let name = "service-manager";
    join_all(managers.iter().map(|manager| async move {
        let authority = manager
            .uri("/")
            .ok()
            .and_then(|uri| uri.authority().map(ToString::to_string));
        let authority = authority.unwrap_or_default();
        match connect(&authority).await {
            Ok(_) => Check::ok(name, format!("the manager {manager} accepts connections")),
            Err(error) => Check::warning(
                name,
                format!("the manager {manager} accepts no connection: {error}"),
                "start it, correct its address, or let the firewall between pass its port",
            ),
        }
    }))
    .await
}

async fn connect(authority: &str) -> Result<TcpStream, String> {
    timeout(TIME_LIMIT, TcpStream::connect(authority))
        .await
        .map_err(|_| format!("no answer within {TIME_LIMIT:?}"))?
        .map_err(|error| error.to_string())
}

/// The port service of this host's vRouter agent.
async fn vrouter(contrail: Option<&Contrail>) -> Vec<Check> {
    let name = "service-vrouter";
    let Some(contrail) = contrail else {
        return vec![];
    };
    let options = VrouterOptions {
        host: contrail.vrouter_host.clone(),
        port: contrail.vrouter_port,
        limits: limits(),
    };
    let answer = async {
        let client = VrouterClient::new(&options).map_err(|error| error.to_string())?;
        // No container has this UUID.
        let configuration = client.configuration(Uuid::nil()).await;
        configuration.map_err(|error| with_causes(&error))?;
        Ok::<_, String>(client.agent().to_owned())
    };
    vec![match answer.await {
        Ok(agent) => Check::ok(
            name,
            format!("the port service of the vRouter agent answers at {agent}"),
        ),
        Err(error) => Check::failure(
            name,
            format!("the port service of the vRouter agent does not answer: {error}"),
            "start the vRouter agent of this host, or correct vrouter in [contrail]",
        ),
    }]
}

#[derive(Deserialize)]
struct MasterVersion {
    version: String,
}

/// The master in the flag `--master`: an address, or the servers of `ZooKeeper`.
pub(super) async fn master(flag: String) -> Check {
    let name = "service-master";
    let remedy =
        "start it, or correct the agent's --master; without a master the agent gets no tasks";
    if let Some(servers) = flag.strip_prefix("zk://") {
        let servers = zookeeper_servers(servers);
        let answers = join_all(servers.iter().map(|server| zookeeper(server))).await;
        let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        let text = |answers: Vec<Result<String, String>>| {
            let texts = answers
                .into_iter()
                .map(|answer| answer.unwrap_or_else(|error| error));
            texts.collect::<Vec<_>>().join(", ")
        };
        return match (good.is_empty(), bad.is_empty()) {
            (false, true) => Check::ok(name, format!("ZooKeeper of --master: {}", text(good))),
            (true, _) => Check::failure(
                name,
                format!("ZooKeeper of --master: {}", text(bad)),
                remedy,
            ),
            (false, false) => {
                let text = format!("ZooKeeper of --master: {}, but {}", text(good), text(bad));
                Check::warning(name, text, "start these servers")
            }
        };
    }
    // Of a standalone agent, or a file, which has either.
    let address = flag.strip_prefix("master@").unwrap_or(&flag);
    let Ok(address) = Address::parse_root(address, MASTER_PORT) else {
        return Check::ok(
            name,
            "the agent's --master is not an address, and is not asked",
        );
    };
    match agent::get::<MasterVersion>(&address, "/version").await {
        Ok(answer) => {
            let version = Quoted(answer.version.as_bytes());
            Check::ok(
                name,
                format!("the Mesos master at {address} runs Mesos {version}"),
            )
        }
        Err(error) => {
            let text = format!("the Mesos master at {address} does not answer: {error}");
            Check::failure(name, text, remedy)
        }
    }
}

/// The servers of `user:password@host:port,host/path`.
fn zookeeper_servers(text: &str) -> Vec<String> {
    let servers = text.rsplit_once('@').map_or(text, |(_, servers)| servers);
    let servers = servers.split('/').next().unwrap_or_default();
    let servers = servers.split(',').filter(|server| !server.is_empty());
    let has_port = |server: &str| {
        server
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    };
    servers
        .map(|server| {
            if has_port(server) {
                server.to_owned()
            } else {
                format!("{server}:{ZOOKEEPER_PORT}")
            }
        })
        .collect()
}

/// Asks a server for its version, which it may be configured not to say.
async fn zookeeper(server: &str) -> Result<String, String> {
    let shown = Quoted(server.as_bytes());
    let stream = connect(server)
        .await
        .map_err(|error| format!("{shown} does not answer ({error})"))?;
    let mut answer = vec![0; MAX_ZOOKEEPER_BYTES];
    let asked = async {
        stream.writable().await?;
        stream.try_write(b"srvr")?;
        loop {
            stream.readable().await?;
            match stream.try_read(&mut answer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read,
            }
        }
    };
    let length = timeout(TIME_LIMIT, asked)
        .await
        .map_or(0, |read| read.unwrap_or(0));
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    let version = text.strip_prefix("Zookeeper version: ");
    let version = version.and_then(|rest| rest.split(['-', ',', '\n']).next());
    Ok(match version {
        Some(version) => format!("{shown} runs {}", Quoted(version.as_bytes())),
        None => format!("{shown} accepts connections"),
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn servers_of_zookeeper_are_read_without_credentials() {
        for (text, servers) in [
            ("a:2181,b:2182/mesos", vec!["a:2181", "b:2182"]),
            ("user:pw@a,b/mesos", vec!["a:2181", "b:2181"]),
            ("[2001:db8::1]:2181/x", vec!["[2001:db8::1]:2181"]),
            ("", vec![]),
        ] {
            assert_eq!(zookeeper_servers(text), servers, "{text}");
        }
    }

    #[test]
    fn node_daemon_that_is_away_is_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let checks = node_daemon_checks(&directory.path().join("api.sock"));
        assert_eq!((checks.len(), checks[0].severity), (1, Severity::Failure));
    }

    #[tokio::test]
    async fn zookeeper_is_asked_and_absent_servers_are_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed_port = closed.local_addr().unwrap().port();
        drop(closed);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                assert_eq!(&word, b"srvr");
                let answer = b"Zookeeper version: 3.4.13-2d71af4, built on 06/29/2018\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        let check = master(format!("zk://u:secret@127.0.0.1:{port}/mesos")).await;
        assert_eq!(check.severity, Severity::Ok, "{check:?}");
        assert!(
            check.text.contains("3.4.13") && !check.text.contains("secret"),
            "{check:?}"
        );
        let check = master(format!(
            "zk://127.0.0.1:{port},127.0.0.1:{closed_port}/mesos"
        ))
        .await;
        assert_eq!(check.severity, Severity::Warning, "{check:?}");
        let check = master(format!("zk://127.0.0.1:{closed_port}/mesos")).await;
        assert_eq!(check.severity, Severity::Failure, "{check:?}");
        let check = master(format!("127.0.0.1:{closed_port}")).await;
        assert_eq!(check.severity, Severity::Failure, "{check:?}");
    }
}
