//! Where the managers are, from what the overlay modules know: the masters.
//!
//! The managers run beside the masters, or in them. With `zk://…` the servers of ZooKeeper are taken
//! for the masters, which is so in DC/OS.

use std::path::Path;

use contrail_mesos_api::agent_api::manager_address;
use contrail_mesos_api::config_reader::read_file;
use contrail_mesos_api::http::Address;
use contrail_mesos_api::text::Quoted;

/// Why no manager is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MasterError {
    /// The file cannot be read.
    #[error(
        "cannot read the file of the masters {path}: {error}; correct master, or write managers"
    )]
    File {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// It names no hosts.
    #[error(
        "master is {0}, which names no masters: write host:port, zk://host:port,host:port/path or \
         file:///path of a file with one of both; or write managers"
    )]
    Invalid(String),
    /// There is none.
    #[error(
        "no master is known: write master, or the parameter managers, or set MESOS_MASTER (on a \
         master MESOS_ZK)"
    )]
    Missing,
}

/// The managers at the hosts of `master`, at this port. Reads a file: blocks.
pub(super) fn managers(master: &str, port: u16) -> Result<Vec<Address>, MasterError> {
    let Some(path) = master.strip_prefix("file://") else {
        return hosts(master, port);
    };
    let text = read_file(Path::new(path)).map_err(|error| MasterError::File {
        path: Quoted(path.as_bytes()).to_string(),
        error,
    })?;
    hosts(text.trim(), port)
}

fn hosts(master: &str, port: u16) -> Result<Vec<Address>, MasterError> {
    // What comes before may be a password.
    let shown = master.rsplit('@').next().unwrap_or_default();
    let invalid = || MasterError::Invalid(Quoted(shown.as_bytes()).to_string());
    let servers = match master.strip_prefix("zk://") {
        Some(_) => {
            let servers = shown.strip_prefix("zk://").unwrap_or(shown);
            servers.split('/').next().unwrap_or_default()
        }
        // As libprocess writes it.
        None => master.strip_prefix("master@").unwrap_or(master),
    };
    servers
        .split(',')
        .map(|server| {
            let address = manager_address(server.trim()).ok()?;
            let uri = address.uri("/").ok()?;
            let host = uri.host()?;
            manager_address(&format!("{host}:{port}")).ok()
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(master: &str) -> Result<Vec<String>, MasterError> {
        let addresses = managers(master, 7000)?;
        Ok(addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn managers_are_at_the_hosts_of_the_masters() {
        for (master, expected) in [
            ("10.0.0.1:5050", &["http://10.0.0.1:7000"][..]),
            ("master@10.0.0.1:5050", &["http://10.0.0.1:7000"]),
            ("[2001:db8::1]:5050", &["http://[2001:db8::1]:7000"]),
            ("leader.mesos", &["http://leader.mesos:7000"]),
            (
                "zk://u:p@a:2181,b:2181/mesos",
                &["http://a:7000", "http://b:7000"],
            ),
        ] {
            assert_eq!(found(master).unwrap(), expected, "{master}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master");
        std::fs::write(&path, "zk://a:2181/mesos\n").unwrap();
        let file = format!("file://{}", path.display());
        assert_eq!(found(&file).unwrap(), ["http://a:7000"]);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(found(&file), Err(MasterError::File { .. })));
    }

    #[test]
    fn nonsense_is_refused_without_the_password() {
        for master in ["", "zk://", "zk:///mesos", "a b", "zk://u:secret@,/x"] {
            let error = found(master).unwrap_err();
            assert!(
                matches!(error, MasterError::Invalid(_)),
                "{master}: {error}"
            );
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
