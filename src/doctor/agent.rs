//! The agent of this host: its flags, its address, and the library that it loads.
//!
//! The agent itself is asked for its flags. If it does not say them, such as to those who are not
//! authenticated, they are read from its process.

mod flags;
mod process;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use contrail_mesos_api::http::{Address, HttpClient, Limits, Request, TlsOptions};
use contrail_mesos_api::text::Quoted;
use hyper::Method;
use serde::Deserialize;

pub(crate) use self::flags::Flags;
pub(crate) use self::process::AgentProcess;
use super::library::LibraryOptions;
use super::{Check, Doctor, in_thread, library, services};

/// The port of an agent whose flags have none.
pub(crate) const AGENT_PORT: u16 = 5051;
/// The path at which an agent lists its containers.
pub(crate) const CONTAINERS_PATH: &str =
    "/slave(1)/containers?show_nested=true&show_standalone=true";
/// The limits of a request to an agent or master of Mesos. The state of an agent with many tasks is long.
pub(super) const LIMITS: Limits = Limits {
    connect_timeout: Duration::from_secs(2),
    request_timeout: Duration::from_secs(5),
    max_body_bytes: 64 << 20,
};

const INSTALL: &str = "see docs/install.md, \"Install on an agent\"";

/// What an agent says of itself.
#[derive(Debug, Default)]
pub(crate) struct AgentAnswer {
    pub(crate) version: Option<String>,
    /// Its address, which it gives to executors.
    pub(crate) address: Option<IpAddr>,
    pub(crate) flags: Option<Flags>,
    /// Why something is missing.
    pub(crate) problem: Option<String>,
}

pub(super) async fn checks(doctor: &Doctor) -> Vec<Check> {
    if let Some(address) = &doctor.agent {
        return one(doctor, Some(address.clone()), None).await;
    }
    let processes = match find_agents().await {
        Ok(processes) => processes,
        Err(problem) => {
            let remedy = "run doctor as root, or name the agent by --agent";
            return vec![Check::warning("agent", problem, remedy)];
        }
    };
    if processes.is_empty() {
        let mut checks = vec![Check::warning(
            "agent",
            "no mesos-agent runs in this network namespace",
            format!("start it, or name its address by --agent; {INSTALL}"),
        )];
        checks.extend(library_checks(doctor, &Flags::default(), None, None).await);
        return checks;
    }
    let mut checks = vec![];
    for process in processes {
        let address = process.address(AGENT_PORT);
        checks.extend(one(doctor, address, Some(process)).await);
    }
    checks
}

/// The agents that run in the network namespace of the calling thread.
pub(crate) async fn find_agents() -> Result<Vec<AgentProcess>, String> {
    on_thread(process::find).await
}

/// Runs work that blocks, on a thread of its own.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    crate::net::netns::on_own_thread("cm-doctor", move |_| work())
        .await
        .map_err(|error| error.to_string())?
}

/// The checks of one agent.
async fn one(
    doctor: &Doctor,
    address: Option<Address>,
    process: Option<AgentProcess>,
) -> Vec<Check> {
    let answer = match &address {
        Some(address) => ask(address).await,
        None => AgentAnswer::default(),
    };
    let mut checks = vec![reached(address.as_ref(), process.as_ref(), &answer)];
    let flags = answer
        .flags
        .or_else(|| process.as_ref().map(|process| process.flags.clone()));
    let advertised = answer
        .address
        .or_else(|| flags.as_ref().and_then(Flags::ip));
    if let Some(flags) = &flags {
        checks.extend(flags.checks());
        checks.extend(advertised.map(|address| flags.address_check(address)));
        if let Some(master) = flags.get("master") {
            checks.push(services::master(master.to_owned()).await);
        }
    }
    let flags = flags.unwrap_or_default();
    checks.extend(library_checks(doctor, &flags, answer.version, process.as_ref()).await);
    checks
}

fn reached(
    address: Option<&Address>,
    process: Option<&AgentProcess>,
    answer: &AgentAnswer,
) -> Check {
    let name = "agent";
    let who = match (process, address) {
        (Some(process), Some(address)) => {
            format!("the mesos-agent with the pid {} at {address}", process.pid)
        }
        (Some(process), None) => format!("the mesos-agent with the pid {}", process.pid),
        (None, Some(address)) => format!("the mesos-agent at {address}"),
        (None, None) => "the mesos-agent".to_owned(),
    };
    match (&answer.version, &answer.problem) {
        (Some(version), None) => Check::ok(
            name,
            format!("{who} runs Mesos {}", Quoted(version.as_bytes())),
        ),
        (Some(version), Some(problem)) => {
            let version = Quoted(version.as_bytes());
            let text =
                format!("{who} runs Mesos {version}, and does not say its flags ({problem})");
            if process.is_some() {
                Check::ok(name, format!("{text}: those of its process are checked"))
            } else {
                let remedy = "run doctor without --agent, in the network namespace of the agent";
                Check::warning(name, format!("{text}: they are not checked"), remedy)
            }
        }
        (None, problem) => {
            let problem = problem.as_deref().unwrap_or("its address is not known");
            let remedy = "see its log, or name its address by --agent";
            let text = format!("{who} does not answer: {problem}");
            if process.is_some() {
                Check::warning(name, text, remedy)
            } else {
                Check::failure(name, text, remedy)
            }
        }
    }
}

#[derive(Deserialize)]
struct VersionAnswer {
    version: String,
}

#[derive(Deserialize)]
struct StateAnswer {
    /// Such as `slave(1)@192.0.2.1:5051`.
    pid: String,
    version: String,
    flags: Option<Flags>,
}

/// Asks an agent for its version, address and flags. Its version it says without authentication, too.
pub(crate) async fn ask(address: &Address) -> AgentAnswer {
    match get::<StateAnswer>(address, "/slave(1)/state").await {
        Ok(state) => {
            let ip = state.pid.split_once('@').and_then(|(_, at)| {
                let (ip, _) = at.rsplit_once(':')?;
                ip.trim_matches(['[', ']']).parse().ok()
            });
            let has_flags = state.flags.is_some();
            AgentAnswer {
                version: Some(state.version),
                address: ip,
                flags: state.flags,
                problem: (!has_flags).then(|| "its state has none".to_owned()),
            }
        }
        Err(problem) => {
            let answer = get::<VersionAnswer>(address, "/version").await;
            AgentAnswer {
                version: answer.ok().map(|answer| answer.version),
                problem: Some(problem),
                ..AgentAnswer::default()
            }
        }
    }
}

/// Reads JSON from a server of Mesos.
pub(crate) async fn get<T: serde::de::DeserializeOwned>(
    address: &Address,
    path: &str,
) -> Result<T, String> {
    let http =
        HttpClient::new(LIMITS, &TlsOptions::default()).map_err(|error| error.to_string())?;
    let request = Request {
        method: Method::GET,
        uri: address.uri(path).map_err(|error| error.to_string())?,
        headers: vec![],
        body: None,
    };
    let response = http
        .send(request)
        .await
        .map_err(|error| error.to_string())?;
    if !response.status.is_success() {
        return Err(format!(
            "{path} answers with status {}",
            response.status.as_u16()
        ));
    }
    serde_json::from_slice(&response.body)
        .map_err(|error| format!("{path} answers with something else: {error}"))
}

/// The checks of the library that the agent loads, or is to load.
async fn library_checks(
    doctor: &Doctor,
    flags: &Flags,
    version: Option<String>,
    process: Option<&AgentProcess>,
) -> Vec<Check> {
    let modules = flags.modules();
    let module = modules.iter().find(|module| module.name == flags::ISOLATOR);
    let mut checks = vec![];
    if let Some(config) = module.and_then(|module| module.parameter("config"))
        && Path::new(config) != doctor.source.path()
    {
        checks.push(Check::warning(
            "agent-modules",
            format!(
                "the agent's module has the configuration {}, and {} was checked",
                Quoted(config.as_bytes()),
                Quoted(doctor.source.path().as_os_str().as_encoded_bytes())
            ),
            "give the agent's configuration by --config",
        ));
    }
    let options = LibraryOptions {
        library: doctor.library.clone(),
        configured: module.and_then(|module| module.file.clone()),
        mesos: doctor
            .mesos
            .clone()
            .or_else(|| process.and_then(|process| process.libmesos.clone())),
        version,
        is_replaced: process.is_some_and(|process| process.has_deleted_library),
    };
    checks.extend(in_thread(options, library::checks).await);
    checks
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::http::scripted::{Reply, ScriptedServer, ok};
    use serde_json::json;

    use super::*;
    use crate::doctor::Severity;

    async fn answer(state: serde_json::Value) -> (AgentAnswer, Check) {
        let server = ScriptedServer::start(move |request, _| match request.path.as_str() {
            "/slave(1)/state" if !state.is_null() => ok(&state),
            "/slave(1)/state" => Reply::Answer(401, String::new()),
            "/version" => ok(&json!({"version": "1.11.0"})),
            _ => Reply::Answer(404, String::new()),
        })
        .await;
        let address = Address::parse(&server.address.to_string(), AGENT_PORT).unwrap();
        let answer = ask(&address).await;
        let check = reached(Some(&address), None, &answer);
        (answer, check)
    }

    #[tokio::test]
    async fn agent_is_asked_for_its_flags_and_address() {
        let (answer, check) = answer(json!({
            "pid": "slave(1)@127.0.1.1:5051",
            "version": "1.11.0",
            "flags": {"isolation": "network/contrail", "launcher": "linux"},
            "frameworks": [],
        }))
        .await;
        assert_eq!(check.severity, Severity::Ok, "{check:?}");
        assert_eq!(answer.address, Some("127.0.1.1".parse().unwrap()));
        let flags = answer.flags.unwrap();
        assert_eq!(flags.get("launcher"), Some("linux"));
    }

    #[tokio::test]
    async fn agent_that_needs_authentication_says_its_version() {
        let (answer, check) = answer(serde_json::Value::Null).await;
        assert_eq!(answer.version.as_deref(), Some("1.11.0"));
        assert!(answer.flags.is_none());
        assert_eq!(check.severity, Severity::Warning, "{check:?}");
        assert!(check.text.contains("401"), "{check:?}");
    }
}
