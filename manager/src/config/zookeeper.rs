//! The table `[zookeeper]`.

use std::time::Duration;

use super::fields::secret;
use super::{Config, ZooKeeper};
use crate::mesos_master::Masters;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::config_reader::Section;

/// Long enough that a pause of the machine does not cause an election.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// What servers with the default tickTime allow.
const SESSION_TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_mins(1);
const SERVERS: &str = "\"zk://10.0.0.1:2181,10.0.0.2:2181/contrail-mesos\"";

pub(super) fn read(top: &Section<'_>) -> Option<ZooKeeper> {
    let section = top.section("zookeeper")?;
    let servers = section.text("servers", SERVERS);
    if servers.is_none() && !section.has("servers") {
        section.problem("servers", format!("is missing: write {SERVERS}"));
    }
    // The syntax of masters, but without credentials: these are secret.
    let address = servers.and_then(|text| match text.parse() {
        Ok(Masters::ZooKeeper(address)) if !address.has_credentials() => Some(address),
        Ok(Masters::ZooKeeper(_)) => {
            let message = "has a password in it: write user and password_file instead";
            section.problem("servers", message);
            None
        }
        _ => {
            section.problem("servers", format!("expected {SERVERS}, the path included"));
            None
        }
    });
    let user = section.text("user", "a user's name");
    let password = secret(&section, "password", "the user's password");
    let has_password = section.has("password_file") || section.has("password_env");
    if section.has("user") != has_password {
        let message = "user and password_file (or password_env) go together: write both or neither";
        section.problem("user", message);
    }
    if user
        .as_ref()
        .is_some_and(|user| user.is_empty() || user.contains(':'))
    {
        section.problem("user", "a user's name must not be empty or contain a colon");
    }
    let session_timeout = section.duration("session_timeout", SESSION_TIMEOUT);
    if !SESSION_TIMEOUT_RANGE.contains(&session_timeout) {
        section.problem("session_timeout", "expected a time from \"1s\" to \"60s\"");
    }
    let advertise = section.parsed_with(
        "advertise",
        "the URL of this manager for agents, such as \"https://master-1:6992\"",
        agent_api::manager_address,
    );
    section.finish();
    let address = address?;
    Some(ZooKeeper {
        servers: address.servers().to_owned(),
        path: address.path().to_owned(),
        digest: user
            .zip(password)
            .map(|(user, password)| format!("{user}:{password}").into()),
        session_timeout,
        advertise,
    })
}

/// Checks that need the whole configuration.
pub(super) fn check(top: &Section<'_>, config: &Config) {
    let Some(zookeeper) = &config.zookeeper else {
        return;
    };
    if zookeeper.advertise.is_none() && config.listen.ip().is_unspecified() {
        top.problem(
            "zookeeper",
            format!(
                "advertise is missing: {} is every address of this machine, and agents are \
                 redirected to a single one; write advertise = \"https://master-1:6992\"",
                config.listen
            ),
        );
    }
}
