//! What `contrail-mesos doctor` checks: whether containers can be attached on this host, before and after
//! the installation, and with a configuration that is broken or missing.
//!
//! Features of the kernel are tried in a network namespace of its own, which is gone afterwards. Nothing
//! else is changed, but a file that is created in the state directory and removed.
//!
//! Invariants: each group of checks has a time limit, and all groups run at once, so nothing that hangs
//! hangs the whole. Strings from outside are quoted in texts. A failure or warning has a remedy.

pub(crate) mod agent;
mod files;
mod host;
mod kernel;
mod library;
mod services;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use contrail_mesos_api::config_reader::ConfigProblem;
use contrail_mesos_api::http::Address;
use futures::future::join_all;
use serde::Serialize;

use crate::config::{Config, NetworkProvider, Source, Vif};
use crate::net::netns;
use crate::preflight;
use crate::provider::cni::version_problems;

/// The version of the form of a report as JSON.
pub const SCHEMA_VERSION: u32 = 1;

/// How long a group of checks may take.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// How serious the outcome of a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it must be.
    Ok,
    /// Containers may be limited, or something cannot be checked.
    Warning,
    /// Containers cannot be attached, or not all of them.
    Failure,
}

impl Severity {
    /// The word for people and programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, as a code such as `kernel-bridge`. Several outcomes may have the same.
    pub name: &'static str,
    /// How serious it is.
    pub severity: Severity,
    /// What was found.
    pub text: String,
    /// What the operator can do; none if all is well.
    pub remedy: Option<String>,
}

impl Check {
    fn new(
        name: &'static str,
        severity: Severity,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            severity,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            severity: Severity::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    fn warning(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Severity::Warning, text, remedy)
    }

    fn failure(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Severity::Failure, text, remedy)
    }
}

/// What is checked.
#[derive(Clone, Debug)]
pub struct Doctor {
    /// The configuration.
    pub source: Source,
    /// The library that is to be loaded; none for that of the running agent, or that of the default path.
    pub library: Option<PathBuf>,
    /// `libmesos` or a program of Mesos; none for that of the running agent, or of the usual paths.
    pub mesos: Option<PathBuf>,
    /// The address of the agent; none for the `mesos-agent` that runs in this network namespace.
    pub agent: Option<Address>,
}

/// The outcomes of all checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of this program.
    pub version: &'static str,
    /// The most serious outcome.
    pub severity: Severity,
    /// The outcomes: those of the kernel and the host first, those of services last.
    pub checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        let severities = checks.iter().map(|check| check.severity);
        Self {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION"),
            severity: severities.max().unwrap_or(Severity::Ok),
            checks,
        }
    }
}

/// What the networks of a configuration need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Needs {
    ipv6: bool,
    macvlan: bool,
    vxlan: bool,
}

impl Needs {
    fn of(config: &Config) -> Self {
        let mut needs = Self {
            macvlan: config
                .contrail
                .as_ref()
                .is_some_and(|contrail| contrail.vif != Vif::Veth),
            ..Self::default()
        };
        for network in &config.networks {
            needs.vxlan |= matches!(network.provider, NetworkProvider::Overlay(_));
            needs.ipv6 |= network.subnets().iter().any(|net| net.addr().is_ipv6());
        }
        needs
    }
}

type Group<'a> = Pin<Box<dyn Future<Output = Vec<Check>> + 'a>>;

impl Doctor {
    /// Runs all checks, for the network namespace of the calling thread. Needs root and a tokio runtime
    /// with timers and I/O.
    pub async fn examine(&self) -> Report {
        let (config, mut checks) = self.read_configuration().await;
        let needs = config.as_ref().map(Needs::of).unwrap_or_default();
        let config = config.as_ref();
        let groups: Vec<(&'static str, Group<'_>)> = vec![
            ("kernel", Box::pin(kernel::checks(needs))),
            (
                "host",
                Box::pin(in_thread(config.cloned(), |config| {
                    host::checks(config.as_ref())
                })),
            ),
            (
                "files",
                Box::pin(in_thread(
                    (config.cloned(), self.source.clone()),
                    |(config, source)| files::checks(config.as_ref(), source.path()),
                )),
            ),
            ("agent", Box::pin(agent::checks(self))),
            ("services", Box::pin(services::checks(config))),
        ];
        let groups = groups.into_iter().map(|(name, group)| limited(name, group));
        checks.extend(join_all(groups).await.into_iter().flatten());
        checks.sort_by_key(|check| order(check.name));
        Report::new(checks)
    }

    /// The configuration, unless it cannot be used, and what `config check` says about it.
    async fn read_configuration(&self) -> (Option<Config>, Vec<Check>) {
        let source = self.source.clone();
        let read = netns::on_own_thread("cm-doctor", move |_| {
            let report = preflight::check(&source, preflight::Scope::Agent);
            // Asks plugins.
            let problems = report
                .config
                .as_ref()
                .map_or_else(|_| vec![], version_problems);
            (report, problems)
        });
        let (report, cni_problems) = match tokio::time::timeout(TIME_LIMIT, read).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return (None, vec![internal("configuration", &error.to_string())]),
            Err(_) => return (None, vec![out_of_time("configuration")]),
        };
        let path = self.source.path().display();
        let mut checks = vec![];
        let config = match report.config {
            Ok(config) => {
                let count = config.networks.len();
                let plural = if count == 1 { "" } else { "s" };
                let text = format!("{path} is valid, with {count} network{plural}");
                checks.push(Check::ok("configuration", text));
                let problems = config.cni_problems.iter().chain(&cni_problems);
                checks.extend(problems.map(|problem| configured(Severity::Failure, problem)));
                let ignored = config.cni_ignored.iter();
                checks.extend(ignored.map(|problem| configured(Severity::Warning, problem)));
                Some(config)
            }
            Err(error) => {
                let problems = error.problems.iter();
                let text: Vec<String> = problems.map(ToString::to_string).collect();
                let more = match error.omitted {
                    0 => String::new(),
                    omitted => format!("; and {omitted} more"),
                };
                checks.push(Check::failure(
                    "configuration",
                    format!("{}{more}", text.join("; ")),
                    format!(
                        "correct {path}, or give its path by --config; contrail-mesos config check \
                         shows a line for each problem"
                    ),
                ));
                None
            }
        };
        let refusals = report.refusals.iter();
        checks.extend(refusals.map(|problem| configured(Severity::Failure, problem)));
        let warnings = report.warnings.iter();
        checks.extend(warnings.map(|problem| configured(Severity::Warning, problem)));
        (config, checks)
    }
}

/// A problem at a key of the configuration.
fn configured(severity: Severity, problem: &ConfigProblem) -> Check {
    let remedy = match (problem.key.as_str(), problem.place.as_str()) {
        ("", place) => format!("see {place}"),
        (key, "") => format!("do what the message says, or change {key}"),
        (key, place) => format!("do what the message says, or change {key} at {place}"),
    };
    Check::new("network", severity, problem.to_string(), remedy)
}

/// The outcomes of a group, or that it has not ended in time.
async fn limited(name: &'static str, group: Group<'_>) -> Vec<Check> {
    tokio::time::timeout(TIME_LIMIT, group)
        .await
        .unwrap_or_else(|_| vec![out_of_time(name)])
}

/// Runs checks that block, on a thread of their own in the network namespace of the calling thread. It
/// is left behind if it hangs.
async fn in_thread<A: Send + 'static>(
    argument: A,
    checks: impl FnOnce(A) -> Vec<Check> + Send + 'static,
) -> Vec<Check> {
    netns::on_own_thread("cm-doctor", move |_| checks(argument))
        .await
        .unwrap_or_else(|error| vec![internal("doctor", &error.to_string())])
}

fn out_of_time(name: &'static str) -> Check {
    Check::failure(
        name,
        format!("these checks have not ended within {TIME_LIMIT:?}"),
        "see whether a file system or a service hangs, and run doctor again",
    )
}

fn internal(name: &'static str, problem: &str) -> Check {
    Check::failure(
        name,
        format!("cannot be checked: {problem}"),
        "do what the message says, and run doctor again",
    )
}

/// Where a check is in the list.
fn order(name: &str) -> usize {
    const GROUPS: [&str; 12] = [
        "kernel",
        "sysctl",
        "neighbour",
        "firewall",
        "mtu",
        "resolver",
        "configuration",
        "network",
        "file",
        "library",
        "agent",
        "",
    ];
    let is_of = |group: &str| name.starts_with(group);
    GROUPS.into_iter().position(is_of).unwrap_or_default()
}

#[cfg(test)]
mod root_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_of_a_report_is_the_most_serious() {
        let ok = Check::ok("kernel-veth", "");
        let warning = Check::warning("mtu", "", "");
        let failure = Check::failure("agent-flags", "", "");
        let severity = |checks: &[&Check]| {
            Report::new(checks.iter().map(|check| (*check).clone()).collect()).severity
        };
        assert_eq!(severity(&[]), Severity::Ok);
        assert_eq!(severity(&[&ok, &warning]), Severity::Warning);
        assert_eq!(severity(&[&warning, &failure, &ok]), Severity::Failure);
    }

    #[tokio::test(start_paused = true)]
    async fn group_that_hangs_is_a_failure() {
        let checks = limited("files", Box::pin(std::future::pending())).await;
        assert_eq!(checks.len(), 1);
        assert_eq!(
            (checks[0].name, checks[0].severity),
            ("files", Severity::Failure)
        );
    }
}
