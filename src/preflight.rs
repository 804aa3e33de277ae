//! What an agent checks when it starts, and `contrail-mesos config check` at any time: the
//! configuration, the files that it names, and whether its networks are possible on this host.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{
    Config, ConfigError, ConfigProblem, Network, NetworkProvider, Node, ReadConfig, Source,
};
use crate::isolator::host_resolver;
use crate::node_dns::NodeDns;
use crate::node_state::NodeStateError;
use crate::provider::bridge::{Conflict, ConflictSeverity, conflicts};
use crate::provider::overlay::{OverlayError, OverlayNetworks};
use contrail_mesos_api::agent_api::ManagerSetupError;
use contrail_mesos_api::command_line::CheckReport;
use contrail_mesos_api::config_reader::{NamedFiles, Severity, secret_file_warning};
use contrail_mesos_api::http::TlsOptions;
use contrail_mesos_api::text::Quoted;

/// How long the node daemon has to answer.
const NODE_DAEMON_TIMEOUT: Duration = Duration::from_secs(1);

/// What is said of networks and containers with IPv6 addresses only.
pub(crate) const WITHOUT_IPV4: &str = "there is no IPv4 address: an executor that has no other network \
     reaches its agent only by a domain socket (http_executor_domain_sockets and http_command_executor of \
     the agent), and ends at once without it";

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Report {
    /// The configuration, or why no agent starts with it.
    pub config: Result<Config, ConfigError>,
    /// Why launches on some networks are refused on this host.
    pub refusals: Vec<ConfigProblem>,
    /// What is probably not meant.
    pub warnings: Vec<ConfigProblem>,
    /// What is worth knowing, and need not be changed.
    pub notes: Vec<ConfigProblem>,
}

/// How much a check covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What the agent needs when it starts.
    Agent,
    /// The whole file and the files that it names, and the host.
    Everything,
    /// The whole file and the files that it names, as far as they are there: for another host.
    Offline,
}

/// Checks a configuration for the network namespace of the calling thread. Changes nothing. Blocks
/// on the file system and on a few requests to the kernel.
#[must_use]
pub fn check(source: &Source, scope: Scope) -> Report {
    let is_offline = scope == Scope::Offline;
    let mut read = if is_offline {
        source.clone().offline().read()
    } else {
        source.read()
    };
    let mut report = Report {
        config: Err(vec![].into()),
        refusals: vec![],
        warnings: std::mem::take(&mut read.warnings),
        notes: vec![],
    };
    report.config = match &read.config {
        Err(error) => Err(error.clone()),
        Ok(config) => {
            let mut problems = match &config.contrail {
                Some(contrail) => {
                    let client = || contrail.manager_client().map(drop);
                    let (token, tls) = (contrail.token_file.as_deref(), &contrail.tls);
                    check_files("contrail", token, tls, client, scope, &read, &mut report)
                }
                None => vec![],
            };
            if scope != Scope::Agent {
                problems.extend(check_node_files(&config.node, scope, &read, &mut report));
            }
            if is_offline {
                note_cni_directory(config, &read, &mut report.notes);
            } else {
                check_overlays(config, &read, &mut report);
                check_host(config, &read, &mut report);
                check_groups(config, &read, &mut report.warnings);
                check_resolver(config, &read, &mut report.warnings);
            }
            check_families(config, is_offline, &read, &mut report.warnings);
            note_bridges(config, &read, &mut report.notes);
            if problems.is_empty() {
                Ok(config.clone())
            } else {
                Err(problems.into())
            }
        }
    };
    report
}

/// What the node daemon needs of a configuration: that it is valid, and the files of `[node]`. Blocks on
/// the file system.
#[must_use]
pub fn check_node(source: &Source, is_offline: bool) -> CheckReport {
    let mut checked = CheckReport::new(source.path());
    let mut read = source.read();
    let mut report = Report {
        config: Err(vec![].into()),
        refusals: vec![],
        warnings: std::mem::take(&mut read.warnings),
        notes: vec![],
    };
    report
        .warnings
        .retain(|warning| warning.key.starts_with("node."));
    match &read.config {
        Err(error) => checked.add_error(error),
        Ok(config) => {
            let scope = if is_offline {
                Scope::Offline
            } else {
                Scope::Everything
            };
            let problems = check_node_files(&config.node, scope, &read, &mut report);
            checked.add(Severity::Problem, &problems);
            let count = config.node.managers.len();
            checked.describe(format!("{count} manager{}", plural(count)), vec![]);
        }
    }
    checked.add(Severity::Warning, &report.warnings);
    checked.add(Severity::Note, &report.notes);
    checked
}

/// What the node daemon warns of when it starts.
#[must_use]
pub fn node_warnings(config: &Config, read: &ReadConfig) -> Vec<ConfigProblem> {
    let is_own = |warning: &&ConfigProblem| warning.key.starts_with("node.");
    let mut warnings: Vec<ConfigProblem> = read.warnings.iter().filter(is_own).cloned().collect();
    let identity = config.node.tls.identity.as_ref();
    for (key, path) in [
        ("node.token_file", config.node.token_file.as_ref()),
        ("node.key_file", identity.map(|identity| &identity.key)),
    ] {
        let warning = path.and_then(|path| secret_file_warning(path));
        warnings.extend(warning.map(|message| read.problem(key, message)));
    }
    warnings
}

/// The ending of a word for several things.
fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Opens the files of `[node]`.
fn check_node_files(
    node: &Node,
    scope: Scope,
    read: &ReadConfig,
    report: &mut Report,
) -> Vec<ConfigProblem> {
    if node.listen.is_some_and(|address| address.port() == 0) {
        let message = "port 0: it is another port after each start, which nobody knows".to_owned();
        report.warnings.push(read.problem("node.listen", message));
    }
    let client = || node.cluster_client().map(drop);
    let (token, tls) = (node.token_file.as_deref(), &node.tls);
    check_files("node", token, tls, client, scope, read, report)
}

/// Opens the files that a table names for the connections to the managers. `client` makes the client
/// of them.
fn check_files(
    table: &str,
    token: Option<&Path>,
    tls: &TlsOptions,
    client: impl FnOnce() -> Result<(), ManagerSetupError>,
    scope: Scope,
    read: &ReadConfig,
    report: &mut Report,
) -> Vec<ConfigProblem> {
    let mut files = NamedFiles::new(scope == Scope::Offline);
    if let Some(path) = token {
        files.token("token_file", path);
    }
    if let Some(path) = &tls.ca {
        files.authorities("ca_file", path);
    }
    if let Some(identity) = &tls.identity {
        files.identity("certificate_file", "key_file", identity);
    }
    let is_usable = !files.has_problems() && !files.is_incomplete();
    let mut problems = vec![];
    for finding in files.findings() {
        let problem = read.problem(&format!("{table}.{}", finding.key), finding.message);
        match finding.severity {
            Severity::Problem => problems.push(problem),
            Severity::Warning => report.warnings.push(problem),
            Severity::Note => report.notes.push(problem),
        }
    }
    if is_usable && let Err(error) = client() {
        problems.push(read.problem(table, error.to_string()));
    }
    problems
}

/// Looks for the overlays of the networks in the node state.
fn check_overlays(config: &Config, read: &ReadConfig, report: &mut Report) {
    let overlays = OverlayNetworks::new(&config.state_dir);
    for network in &config.networks {
        let NetworkProvider::Overlay(overlay) = &network.provider else {
            continue;
        };
        let Err(error) = overlays.bridge_network(overlay) else {
            continue;
        };
        // The node daemon may be started after the agent.
        let is_warning = matches!(error, OverlayError::NodeState(NodeStateError::Missing(_)));
        let problem = read.network_problem(&network.name, "overlay", error.to_string());
        if is_warning {
            report.warnings.push(problem);
        } else {
            report.refusals.push(problem);
        }
    }
}

/// Compares the networks with the host's interfaces, addresses and routes.
fn check_host(config: &Config, read: &ReadConfig, report: &mut Report) {
    match conflicts(&config.state_dir, &config.networks) {
        Ok(conflicts) => {
            for conflict in conflicts {
                let problem = describe(&conflict, config, read);
                match conflict.severity {
                    ConflictSeverity::Refusal => report.refusals.push(problem),
                    ConflictSeverity::Warning => report.warnings.push(problem),
                }
            }
        }
        Err(error) => report.warnings.push(read.problem(
            "network",
            format!("cannot be compared with this host: {error}"),
        )),
    }
}

/// Warns of bridge networks that isolate groups without the node daemon, which allows what groups allow.
/// Launches on overlays need what it publishes anyway.
fn check_groups(config: &Config, read: &ReadConfig, warnings: &mut Vec<ConfigProblem>) {
    let isolates = |network: &&Network| match &network.provider {
        NetworkProvider::Bridge(bridge) => bridge.groups.is_some(),
        _ => false,
    };
    let networks: Vec<&Network> = config.networks.iter().filter(isolates).collect();
    if networks.is_empty() {
        return;
    }
    let socket = &config.node.socket;
    let Err(error) = ask_node_daemon(socket) else {
        return;
    };
    for network in networks {
        let message = format!(
            "nothing but this host reaches its containers, because contrail-mesos-node does not answer at {}: {error}; start it",
            socket.display()
        );
        warnings.push(read.network_problem(&network.name, "groups", message));
    }
}

/// Fails unless the node daemon answers. Waits for a few seconds at most.
fn ask_node_daemon(socket: &Path) -> io::Result<()> {
    let mut stream = request_of_node_daemon(socket, "/live")?;
    let mut version = [0; 7];
    stream.read_exact(&mut version)?;
    if &version == b"HTTP/1." {
        Ok(())
    } else {
        Err(io::Error::new(ErrorKind::InvalidData, "it speaks no HTTP"))
    }
}

/// Sends a request to the API of the node daemon, which closes the connection after its response. Each
/// step has a time limit.
pub(crate) fn request_of_node_daemon(socket: &Path, path: &str) -> io::Result<UnixStream> {
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    client.set_read_timeout(Some(NODE_DAEMON_TIMEOUT))?;
    // Also limits how long it waits for a daemon that accepts nobody.
    client.set_write_timeout(Some(NODE_DAEMON_TIMEOUT))?;
    client.connect(&SockAddr::unix(socket)?)?;
    let mut stream = UnixStream::from(OwnedFd::from(client));
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

/// The body of an answer of the node daemon, of at most `max_bytes`. Blocks.
pub(crate) fn read_from_node_daemon(
    socket: &Path,
    path: &str,
    max_bytes: u64,
) -> io::Result<Vec<u8>> {
    let mut response = vec![];
    request_of_node_daemon(socket, path)?
        .take(max_bytes)
        .read_to_end(&mut response)?;
    body(&response).map(<[u8]>::to_vec).ok_or_else(|| {
        let text = format!("{path} is answered with {}", Quoted(&response));
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// The same of an answer in JSON.
pub(crate) fn read_json_from_node_daemon<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    max_bytes: u64,
) -> io::Result<T> {
    let body = read_from_node_daemon(socket, path, max_bytes)?;
    serde_json::from_slice(&body).map_err(io::Error::from)
}

/// The body of a complete response with the status 200.
fn body(response: &[u8]) -> Option<&[u8]> {
    let end = response
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (response.get(..end)?, response.get(end + 4..)?);
    let has_status = head.starts_with(b"HTTP/1.1 200") || head.starts_with(b"HTTP/1.0 200");
    let head = String::from_utf8_lossy(head).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let is_complete = length.is_none_or(|length| length.trim().parse() == Ok(body.len()));
    (has_status && is_complete).then_some(body)
}

/// Warns of networks whose containers have no IPv4 address.
fn check_families(
    config: &Config,
    is_offline: bool,
    read: &ReadConfig,
    warnings: &mut Vec<ConfigProblem>,
) {
    let overlays = OverlayNetworks::new(&config.state_dir);
    for network in &config.networks {
        let (key, subnets) = match &network.provider {
            NetworkProvider::Bridge(bridge) => ("subnet6", bridge.subnets().collect()),
            // Its subnets are known on its host.
            NetworkProvider::Overlay(overlay) if !is_offline => {
                let bridge = overlays.bridge_network(overlay);
                let subnets = bridge.map_or_else(|_| vec![], |bridge| bridge.subnets().collect());
                ("overlay", subnets)
            }
            _ => continue,
        };
        if !subnets.is_empty() && subnets.iter().all(|subnet| subnet.addr().is_ipv6()) {
            let message = WITHOUT_IPV4.to_owned();
            warnings.push(read.network_problem(&network.name, key, message));
        }
    }
}

/// Notes that CNI networks were not checked, because they are not on this host.
fn note_cni_directory(config: &Config, read: &ReadConfig, notes: &mut Vec<ConfigProblem>) {
    if let Some(cni) = &config.cni
        && !cni.config_dir.exists()
    {
        let directory = cni.config_dir.display();
        let message = format!("{directory} is not here, and was not checked");
        notes.push(read.problem("cni.config_dir", message));
    }
}

/// Notes which addresses other hosts do not reach, where there are managers that publish services of
/// several hosts.
fn note_bridges(config: &Config, read: &ReadConfig, notes: &mut Vec<ConfigProblem>) {
    if config.node.managers.is_empty() {
        return;
    }
    for network in &config.networks {
        if matches!(network.provider, NetworkProvider::Bridge(_)) {
            let message = "other hosts do not reach its containers' addresses, unless you route \
                           between hosts: a load balancer on another host, and services, need a mapped \
                           port (hostPort), or an overlay network"
                .to_owned();
            notes.push(read.network_problem(&network.name, "name", message));
        }
    }
}

/// Warns of containers that resolve no names.
fn check_resolver(config: &Config, read: &ReadConfig, warnings: &mut Vec<ConfigProblem>) {
    let uses_host_resolver = config
        .uses_host_resolver()
        // Containers get the name servers of the node daemon in place of the host's.
        && NodeDns::read(&config.state_dir).is_none_or(|dns| dns.addresses.is_empty());
    let problem = uses_host_resolver
        .then(|| host_resolver::read().ok()?.problem)
        .flatten();
    warnings.extend(problem.map(|message| read.problem("dns.nameservers", message)));
}

/// A conflict at the key that it is about.
fn describe(conflict: &Conflict, config: &Config, read: &ReadConfig) -> ConfigProblem {
    let network = config.network(&conflict.network);
    let is_overlay =
        network.is_some_and(|network| matches!(network.provider, NetworkProvider::Overlay(_)));
    let subnets = network.map_or_else(Vec::new, crate::config::Network::subnets);
    let subnet = subnets
        .iter()
        .find(|subnet| conflict.message.contains(&subnet.to_string()));
    let key = match subnet {
        Some(IpNet::V4(_)) => "subnet",
        Some(IpNet::V6(_)) => "subnet6",
        None if is_overlay => "overlay",
        None => "bridge",
    };
    read.network_problem(&conflict.network, key, conflict.message.clone())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::node_state::{LocalOverlay, NodeState};
    use contrail_mesos_api::cluster::Revision;

    fn report(toml: &str) -> Report {
        report_of(toml, Scope::Agent)
    }

    fn report_of(toml: &str, scope: Scope) -> Report {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode");
        };
        let key = rcgen::generate_simple_self_signed(["agent".to_owned()]).expect("a key");
        write("token", "0123456789abcdef\n", 0o600);
        write("public-token", "0123456789abcdef\n", 0o666);
        write("two-tokens", "one two\n", 0o600);
        write("certificate", &key.cert.pem(), 0o644);
        write("key", &key.signing_key.serialize_pem(), 0o600);
        let other = rcgen::KeyPair::generate().expect("a key");
        write("other-key", &other.serialize_pem(), 0o600);
        nix::unistd::mkfifo(
            &directory.path().join("pipe"),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .expect("a pipe");
        let path = directory.path().join("agent.toml");
        let toml = toml.replace("DIR", &directory.path().display().to_string());
        fs::write(&path, format!("[contrail]\nmanagers = ['m']\n{toml}\n")).expect("a file");
        check(&Source::file(path), scope)
    }

    fn lines(problems: &[ConfigProblem]) -> Vec<String> {
        problems
            .iter()
            .map(|problem| {
                let text = problem.to_string();
                text[text.find("agent.toml").unwrap_or_default()..].to_owned()
            })
            .collect()
    }

    #[test]
    fn files_of_contrail_are_opened() {
        let good = "token_file = 'DIR/token'\nca_file = 'DIR/certificate'\n\
                    certificate_file = 'DIR/certificate'\nkey_file = 'DIR/key'";
        assert!(report(good).config.is_ok());
        for (toml, expected) in [
            (
                good.replace("DIR/token", "DIR/missing"),
                "agent.toml:3:14: contrail.token_file: cannot read the token from",
            ),
            (
                good.replace("DIR/token", "DIR/two-tokens"),
                "agent.toml:3:14: contrail.token_file: cannot read the token from",
            ),
            (
                good.replace("DIR/token", "DIR/pipe"),
                "agent.toml:3:14: contrail.token_file: ",
            ),
            (
                good.replace("ca_file = 'DIR/certificate'", "ca_file = 'DIR/missing'"),
                "agent.toml:4:11: contrail.ca_file: ",
            ),
            (
                good.replace("ca_file = 'DIR/certificate'", "ca_file = 'DIR/pipe'"),
                "agent.toml:4:11: contrail.ca_file: ",
            ),
            (
                good.replace(
                    "certificate_file = 'DIR/certificate'",
                    "certificate_file = 'DIR/key'",
                ),
                "agent.toml:5:20: contrail.certificate_file: ",
            ),
            (
                good.replace("DIR/key", "DIR/certificate"),
                "agent.toml:6:12: contrail.key_file: ",
            ),
            (
                good.replace("DIR/key", "DIR/other-key"),
                "agent.toml:5:20: contrail.certificate_file: ",
            ),
            (
                good.replace("DIR/key", "DIR"),
                "agent.toml:6:12: contrail.key_file: ",
            ),
        ] {
            let error = report(&toml).config.expect_err(expected);
            let lines = lines(&error.problems);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].starts_with(expected), "{expected}: {lines:?}");
        }
        let all = good.replace("DIR/", "/nowhere/");
        let error = report(&all).config.expect_err("missing files");
        assert_eq!(error.problems.len(), 4, "{error}");
    }

    #[test]
    fn files_of_the_node_daemon_are_no_problem_of_the_agent() {
        let toml = "[node]\nmanagers = ['m']\ntoken_file = 'DIR/none'\nlisten = '127.0.0.1:0'";
        assert!(report_of(toml, Scope::Agent).config.is_ok());
        let report = report_of(toml, Scope::Everything);
        let lines_of = |error: &ConfigError| lines(&error.problems);
        let problems = lines_of(&report.config.expect_err("no token"));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("agent.toml:5:14: node.token_file: "),
            "{problems:?}"
        );
        let mut warnings = lines(&report.warnings);
        warnings.retain(|warning| warning.contains("node.listen"));
        assert!(
            warnings.len() == 1 && warnings[0].contains("port 0"),
            "{warnings:?}"
        );
    }

    #[test]
    fn files_that_are_not_here_are_notes_offline() {
        let toml = "token_file = 'DIR/none'\nca_file = 'DIR/certificate'\n[node]\nmanagers = ['m']\n\
                    certificate_file = 'DIR/certificate'\nkey_file = 'DIR/none'\n\
                    [cni]\nconfig_dir = 'DIR/none'\n[[network]]\nname = 'vxlan-1'\n\
                    provider = 'overlay'\n";
        let report = report_of(toml, Scope::Offline);
        assert!(report.config.is_ok(), "{report:?}");
        // Nothing of this host is looked at.
        assert_eq!(lines(&report.refusals), [""; 0]);
        let notes = lines(&report.notes);
        for key in ["contrail.token_file", "node.key_file", "cni.config_dir"] {
            assert!(
                notes.iter().any(|note| note.contains(key)),
                "{key}: {notes:?}"
            );
        }
        assert_eq!(notes.len(), 3, "{notes:?}");
        // What is there is checked.
        let toml = toml.replace("'DIR/certificate'\n[node]", "'DIR/token'\n[node]");
        let error = report_of(&toml, Scope::Offline)
            .config
            .expect_err("a token");
        assert_eq!(error.problems.len(), 1, "{error}");
        assert_eq!(error.problems[0].key, "contrail.ca_file");
    }

    #[test]
    fn overlay_is_looked_for_in_the_node_state() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent.toml");
        let toml = format!(
            "state_dir = '{}'\n[[network]]\nname = 'vxlan-1'\nprovider = 'overlay'\n",
            directory.path().join("state").display()
        );
        fs::write(&path, toml).expect("a file");
        let found = || {
            let report = check(&Source::file(&path), Scope::Agent);
            assert!(report.config.is_ok(), "{report:?}");
            let mut warnings = report.warnings;
            warnings.retain(|warning| warning.key.ends_with(".overlay"));
            [lines(&report.refusals), lines(&warnings)]
        };
        let [refusals, warnings] = found();
        assert_eq!(refusals, [""; 0]);
        assert!(
            warnings[0].contains("overlays.json does not exist"),
            "{warnings:?}"
        );
        let publish = |overlay: &str, problem: Option<&str>| {
            let overlay = LocalOverlay {
                name: overlay.to_owned(),
                vni: 4097,
                subnet: Some("198.18.7.0/25".parse().expect("a subnet")),
                subnet6: None,
                mtu: 1450,
                groups: None,
                problem: problem.map(str::to_owned),
                blocks: vec![],
                withdrawn: vec![],
            };
            let (name, revision) = ("agent-1".to_owned(), Revision::default());
            NodeState::new(name, revision, vec![overlay], vec![])
                .write(&directory.path().join("state"))
                .expect("a file");
        };
        publish("vxlan-1", None);
        assert_eq!(found(), [vec![], Vec::<String>::new()]);
        for (overlay, problem, expected) in [
            ("other", None, "there is no overlay \"vxlan-1\""),
            ("vxlan-1", Some("it is disabled"), "it is disabled"),
        ] {
            publish(overlay, problem);
            let [refusals, warnings] = found();
            assert_eq!((refusals.len(), warnings.len()), (1, 0), "{refusals:?}");
            assert!(refusals[0].starts_with("agent.toml:2:"), "{refusals:?}");
            assert!(refusals[0].contains(expected), "{refusals:?}");
        }
    }

    #[test]
    fn isolated_groups_without_the_node_daemon_are_a_warning() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, socket) = (
            directory.path().join("agent.toml"),
            directory.path().join("api.sock"),
        );
        let toml = format!(
            "[node]\nsocket = '{}'\n[[network]]\nname = 'blue'\nprovider = 'bridge'\n\
             subnet = '198.18.0.0/24'\ngroups = true\n",
            socket.display()
        );
        fs::write(&path, toml).expect("a file");
        let warnings = || {
            let report = check(&Source::file(&path), Scope::Agent);
            assert!(report.config.is_ok(), "{report:?}");
            let warnings = report.warnings.into_iter();
            lines(
                &warnings
                    .filter(|one| one.key.ends_with(".groups"))
                    .collect::<Vec<_>>(),
            )
        };
        let missing = warnings();
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].starts_with("agent.toml:7:"), "{missing:?}");
        for (answer, expected) in [("HTTP/1.1 200 OK\r\n\r\n", 0), ("nonsense\n", 1), ("", 1)] {
            let _ = fs::remove_file(&socket);
            let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 8];
                stream.read_exact(&mut request).expect("a request");
                stream.write_all(answer.as_bytes()).expect("a client");
            });
            assert_eq!(warnings().len(), expected, "{answer:?}");
            server.join().expect("the server");
        }
    }

    #[test]
    fn body_of_a_complete_answer_is_read() {
        let answer = |status: &str, length: usize, text: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{text}").into_bytes()
        };
        assert_eq!(body(&answer("200 OK", 2, "{}")), Some(b"{}".as_slice()));
        assert_eq!(body(&answer("200 OK", 3, "{}")), None);
        assert_eq!(body(&answer("503 No", 2, "{}")), None);
        assert_eq!(body(b"nonsense"), None);
    }

    #[test]
    fn networks_of_ipv6_alone_are_a_warning() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent.toml");
        let state = directory.path().join("state");
        let toml = format!(
            "state_dir = '{}'\n[[network]]\nname = 'six'\nprovider = 'bridge'\n\
             subnet6 = 'fd00:32::/64'\n[[network]]\nname = 'both'\nprovider = 'bridge'\n\
             subnet = '198.18.0.0/24'\nsubnet6 = 'fd00:33::/64'\n\
             [[network]]\nname = 'vxlan-6'\nprovider = 'overlay'\n",
            state.display()
        );
        fs::write(&path, toml).expect("a file");
        let overlay = LocalOverlay {
            name: "vxlan-6".to_owned(),
            vni: 4097,
            subnet: None,
            subnet6: Some("fd01:c::/96".parse().expect("a subnet")),
            mtu: 1450,
            groups: None,
            problem: None,
            blocks: vec![],
            withdrawn: vec![],
        };
        let (name, revision) = ("agent-1".to_owned(), Revision::default());
        NodeState::new(name, revision, vec![overlay], vec![])
            .write(&state)
            .expect("a file");
        let report = check(&Source::file(&path), Scope::Agent);
        let warnings = report.warnings.into_iter();
        let warnings: Vec<ConfigProblem> = warnings
            .filter(|one| one.to_string().contains(WITHOUT_IPV4))
            .collect();
        let lines = lines(&warnings);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("agent.toml:5:"), "{lines:?}");
        assert!(lines[1].starts_with("agent.toml:11:"), "{lines:?}");
    }

    #[test]
    fn bridges_of_a_cluster_are_a_note() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent.toml");
        let network = "[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '198.18.0.0/24'\n\
                       [[network]]\nname = 'vxlan-1'\nprovider = 'overlay'\n";
        let notes = |tables: &str| {
            fs::write(&path, format!("{tables}{network}")).expect("a file");
            let report = check(&Source::file(&path), Scope::Agent);
            assert!(report.config.is_ok(), "{report:?}");
            lines(&report.notes)
        };
        assert_eq!(notes(""), [""; 0]);
        let notes = notes("[node]\nmanagers = ['198.18.1.1']\n");
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("agent.toml:4:"), "{notes:?}");
    }

    #[test]
    fn secret_that_others_can_read_is_a_warning() {
        let report = report("token_file = 'DIR/public-token'");
        assert!(report.config.is_ok());
        let warnings = lines(&report.warnings);
        let [warning] = warnings.as_slice() else {
            panic!("{warnings:?}");
        };
        assert!(
            warning.starts_with("agent.toml:3:14: contrail.token_file: "),
            "{warning}"
        );
        assert!(warning.contains("mode 0666"), "{warning}");
    }
}
