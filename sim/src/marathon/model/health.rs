//! Health checks of apps and pods, with Marathon's defaults, and as Mesos gets them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::definition::Violations;

/// The longest time from the start of a task to its first check.
const MAX_FIRST_DELAY: Duration = Duration::from_secs(5);

/// Who checks what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub enum Protocol {
    #[default]
    Http,
    Https,
    Tcp,
    Command,
    MesosHttp,
    MesosHttps,
    MesosTcp,
}

impl Protocol {
    /// Whether Mesos checks, and not Marathon.
    #[must_use]
    pub fn is_of_mesos(self) -> bool {
        match self {
            Self::Http | Self::Https | Self::Tcp => false,
            Self::Command | Self::MesosHttp | Self::MesosHttps | Self::MesosTcp => true,
        }
    }
}

/// A command that must succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCommand {
    /// What the shell runs.
    pub value: String,
}

/// When a check runs, and what follows from its failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct Schedule {
    pub grace_period_seconds: u32,
    pub interval_seconds: u32,
    pub max_consecutive_failures: u32,
    pub timeout_seconds: u32,
    pub delay_seconds: u32,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            grace_period_seconds: 300,
            interval_seconds: 60,
            max_consecutive_failures: 3,
            timeout_seconds: 20,
            delay_seconds: 15,
        }
    }
}

impl Schedule {
    /// The time between two checks by Marathon.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_seconds.into())
    }

    /// The time from the start of a task to its first check by Marathon.
    #[must_use]
    pub fn first(&self) -> Duration {
        self.interval().min(MAX_FIRST_DELAY)
    }

    /// How long failures are ignored, unless a check succeeds.
    #[must_use]
    pub fn grace_period(&self) -> Duration {
        Duration::from_secs(self.grace_period_seconds.into())
    }

    /// How long a check may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }

    /// `HealthCheck` of Mesos with this schedule, and `more`.
    fn message(&self, kind: &str, field: &str, more: &Value) -> Value {
        let mut message = json!({
            "type": kind,
            "delay_seconds": f64::from(self.delay_seconds),
            "interval_seconds": f64::from(self.interval_seconds),
            "timeout_seconds": f64::from(self.timeout_seconds),
            "consecutive_failures": self.max_consecutive_failures,
            "grace_period_seconds": f64::from(self.grace_period_seconds),
        });
        message[field] = more.clone();
        message
    }
}

/// `healthChecks[]` of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct HealthCheck {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CheckCommand>,
    #[serde(
        default,
        rename = "ignoreHttp1xx",
        skip_serializing_if = "Option::is_none"
    )]
    pub ignore_http_1xx: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_index: Option<usize>,
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default = "ipv4")]
    pub ip_protocol: String,
    #[serde(flatten)]
    pub schedule: Schedule,
}

fn ipv4() -> String {
    "IPv4".to_owned()
}

impl HealthCheck {
    /// Checks it; the app has `ports` mappings or definitions.
    pub(super) fn validate(&self, path: &str, ports: usize, violations: &mut Violations) {
        violations.check(
            self.command.is_some() == (self.protocol == Protocol::Command),
            path,
            "Health check protocol must be of supplied type: COMMAND goes with a command",
        );
        violations.check(
            matches!(self.ip_protocol.as_str(), "IPv4" | "IPv6"),
            format!("{path}/ipProtocol"),
            "must be one of 'IPv4', 'IPv6'",
        );
        if self.protocol == Protocol::Command {
            return;
        }
        violations.check(
            self.port.is_none() || self.port_index.is_none(),
            path,
            "HealthCheck must specify either a port or a portIndex",
        );
        let index = self.port_index.unwrap_or(0);
        violations.check(
            self.port.is_some() || index < ports,
            path,
            "Health check port indices must address an element of the ports array or container \
             port mappings.",
        );
    }

    /// Fills in what Marathon does.
    pub(super) fn normalize(&mut self) {
        if self.protocol != Protocol::Command && self.port.is_none() {
            self.port_index.get_or_insert(0);
        }
        if matches!(self.protocol, Protocol::Http | Protocol::Https) {
            self.ignore_http_1xx.get_or_insert(false);
        }
    }

    /// `HealthCheck` of Mesos; none if Marathon checks by itself, or if the port is not known.
    /// `port_at` gives the port inside of the container by its index.
    pub(crate) fn message(&self, port_at: impl Fn(usize) -> Option<u16>) -> Option<Value> {
        let port = || self.port.or_else(|| port_at(self.port_index?));
        let http = |scheme: &str| {
            let mut http = json!({"scheme": scheme, "port": port()?, "protocol": self.ip_protocol});
            if let Some(path) = &self.path {
                http["path"] = json!(path);
            }
            Some(self.schedule.message("HTTP", "http", &http))
        };
        match self.protocol {
            Protocol::Http | Protocol::Https | Protocol::Tcp => None,
            Protocol::Command => {
                let command = json!({"value": self.command.as_ref()?.value});
                Some(self.schedule.message("COMMAND", "command", &command))
            }
            Protocol::MesosHttp => http("http"),
            Protocol::MesosHttps => http("https"),
            Protocol::MesosTcp => {
                let tcp = json!({"port": port()?, "protocol": self.ip_protocol});
                Some(self.schedule.message("TCP", "tcp", &tcp))
            }
        }
    }
}

/// `healthCheck` of a pod's container: one of three kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct PodHealthCheck {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<PodHttpCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<PodTcpCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<super::pod::Exec>,
    #[serde(flatten)]
    pub schedule: Schedule,
}

/// A request that must be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct PodHttpCheck {
    pub endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default = "http_scheme")]
    pub scheme: String,
}

/// A port that must accept connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct PodTcpCheck {
    pub endpoint: String,
}

fn http_scheme() -> String {
    "HTTP".to_owned()
}

impl PodHealthCheck {
    /// Checks it; `endpoints` are those of its container.
    pub(super) fn validate(&self, path: &str, endpoints: &[&str], violations: &mut Violations) {
        let kinds = [self.http.is_some(), self.tcp.is_some(), self.exec.is_some()];
        violations.check(
            kinds.iter().filter(|is_given| **is_given).count() == 1,
            path,
            "Must specify a single type of check, http, tcp, or exec",
        );
        let named = [
            self.http.as_ref().map(|http| &http.endpoint),
            self.tcp.as_ref().map(|tcp| &tcp.endpoint),
        ];
        let is_known = |name: &String| endpoints.contains(&name.as_str());
        violations.check(
            named.into_iter().flatten().all(is_known),
            path,
            "contains reference to unknown endpoint",
        );
    }

    /// `HealthCheck` of Mesos. `port_of` gives the port inside of the container by the endpoint.
    pub(crate) fn message(&self, port_of: impl Fn(&str) -> Option<u16>) -> Option<Value> {
        if let Some(http) = &self.http {
            let scheme = http.scheme.to_lowercase();
            let mut message = json!({"scheme": scheme, "port": port_of(&http.endpoint)?});
            if let Some(path) = &http.path {
                message["path"] = json!(path);
            }
            return Some(self.schedule.message("HTTP", "http", &message));
        }
        if let Some(tcp) = &self.tcp {
            let message = json!({"port": port_of(&tcp.endpoint)?});
            return Some(self.schedule.message("TCP", "tcp", &message));
        }
        let command = match &self.exec.as_ref()?.command {
            super::pod::Command::Shell { shell } => json!({"value": shell}),
            super::pod::Command::Argv { argv } => {
                json!({"shell": false, "value": argv.first(), "arguments": argv})
            }
        };
        Some(self.schedule.message("COMMAND", "command", &command))
    }
}
