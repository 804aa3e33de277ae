//! How this host reaches the managers: keys that `[contrail]` and `[node]` have.

use std::path::PathBuf;

use contrail_mesos_api::agent_api;
use contrail_mesos_api::config_reader::Section;
use contrail_mesos_api::http::tls::Identity;
use contrail_mesos_api::http::{Address, TlsOptions};

/// The managers, and how to authenticate to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ManagerAccess {
    /// In order of preference; empty if none are configured.
    pub(super) managers: Vec<Address>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) tls: TlsOptions,
}

/// Reads `managers`, `token_file`, `ca_file`, `certificate_file` and `key_file`.
pub(super) fn read(section: &Section<'_>) -> ManagerAccess {
    let file = |key: &str, expected: &str| section.text(key, expected).map(PathBuf::from);
    let managers = section.parsed_list_with(
        "managers",
        "a manager's address such as \"https://master-1.example:6992\"",
        agent_api::manager_address,
    );
    let ca = file("ca_file", "a PEM file");
    let certificate = file("certificate_file", "a PEM file");
    let key = file("key_file", "a PEM file");
    if certificate.is_some() != key.is_some() {
        section.problem(
            "certificate_file",
            "certificate_file and key_file belong together: set both or neither",
        );
    }
    let identity = certificate
        .zip(key)
        .map(|(certificate, key)| Identity { certificate, key });
    ManagerAccess {
        managers: managers.unwrap_or_default(),
        token_file: file("token_file", "the path of a file with the token"),
        tls: TlsOptions { ca, identity },
    }
}
