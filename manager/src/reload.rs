//! Taking over a new configuration while the manager runs.
//!
//! Invariant: all that could fail is done first, so that a configuration is taken over as a whole
//! or not at all. What cannot be changed in a running manager is named, and stays as it was.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Notify, watch};

use super::access::Gate;
use super::config::Config;
use super::listener::server_config;
use super::reconcile::{Reconciler, Sources};
use crate::vnc::{Auth, VncOptions};
use contrail_mesos_api::http::TlsError;

/// What of a running manager can be changed.
#[derive(Debug)]
pub(super) struct Live {
    /// What is in force.
    pub config: Arc<Mutex<Config>>,
    pub gate: Arc<Gate>,
    /// The certificate of the agents' API, and whose certificates it believes.
    pub tls: Option<watch::Sender<Arc<ServerConfig>>>,
    pub reconciler: Option<Arc<Reconciler>>,
    /// What comes before requests is to be done again.
    pub provision: Arc<Notify>,
}

impl Live {
    /// Takes over what can be changed; says what needs a restart. Blocks on the file system.
    pub(super) fn reload(&self, new: &Config) -> Result<Vec<&'static str>, TlsError> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let tls = new.access.tls.as_ref().map(server_config).transpose()?;
        let sources = new.follow.as_ref().map(Sources::new).transpose()?;

        let restart = restart(&config, new);
        let tls_stays = tls.is_some() == self.tls.is_some();
        if let (Some(sender), Some(tls)) = (&self.tls, tls) {
            sender.send_replace(tls);
        }
        if tls_stays {
            // Who has no certificate is not to be known by none.
            self.gate.replace(&new.access);
            config.access = new.access.clone();
        }
        if let (Some(reconciler), Some(follow), Some(sources)) =
            (&self.reconciler, &new.follow, sources)
        {
            reconciler.reload(follow, sources);
        }
        if config.provision != new.provision {
            config.provision.clone_from(&new.provision);
            self.provision.notify_one();
        }
        Ok(restart)
    }
}

/// The keys of which another value needs a restart.
fn restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let follow = |config: &Config| config.follow.is_some();
    let concurrency = |config: &Config| config.follow.as_ref().map(|one| one.concurrency);
    let digest = |config: &Config| {
        let digest = config.zookeeper.as_ref()?.digest.as_ref()?;
        Some(digest.expose_secret().to_owned())
    };
    let limits = |config: &Config| (config.ports, config.name_cache_ttl, config.rollback_delay);
    let checks = [
        ("listen", old.listen != new.listen),
        ("legacy_listen", old.legacy_listen != new.legacy_listen),
        ("admin_listen", old.admin_listen != new.admin_listen),
        ("cluster", old.defaults.cluster != new.defaults.cluster),
        ("domain", old.defaults.domain != new.defaults.domain),
        ("project", old.defaults.project != new.defaults.project),
        ("network", old.defaults.network != new.defaults.network),
        ("create", old.create != new.create),
        (
            "[tls]",
            old.access.tls.is_some() != new.access.tls.is_some(),
        ),
        (
            "[zookeeper]",
            format!("{:?}", old.zookeeper) != format!("{:?}", new.zookeeper)
                || digest(old) != digest(new),
        ),
        ("[vnc]", !same_api(&old.vnc, &new.vnc)),
        ("[limits]", limits(old) != limits(new)),
        ("[mesos]", follow(old) != follow(new)),
        (
            "reconcile.concurrency",
            follow(old) == follow(new) && concurrency(old) != concurrency(new),
        ),
    ];
    let differs = checks.into_iter().filter(|(_, differs)| *differs);
    differs.map(|(key, _)| key).collect()
}

fn same_api(old: &VncOptions, new: &VncOptions) -> bool {
    let password = |options: &VncOptions| -> Option<SecretString> {
        match &options.auth {
            Auth::None => None,
            Auth::Basic { password, .. } => Some(password.clone()),
            Auth::Keystone(keystone) => Some(keystone.password.clone()),
        }
    };
    let shown = |options: &VncOptions| password(options).map(|one| one.expose_secret().to_owned());
    // What is printed has everything but secrets.
    format!("{old:?}") == format!("{new:?}") && shown(old) == shown(new)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LEAST: &str = "[vnc]\nservers = [\"a\"]\n";

    fn config(text: &str) -> Config {
        Config::parse(Path::new("m.toml"), text).unwrap()
    }

    #[test]
    fn every_key_that_needs_a_restart_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let secret = |text: &str| {
            let path = directory.path().join(text);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let basic = |password: &str| {
            let file = directory.path().join("password");
            std::fs::write(&file, password).unwrap();
            let file = file.display();
            config(&format!(
                "{LEAST}[vnc.basic]\nuser = \"u\"\npassword_file = \"{file}\""
            ))
        };
        assert_eq!(restart(&basic("one"), &basic("two")), ["[vnc]"]);
        assert_eq!(restart(&basic("one"), &basic("one")), [""; 0]);
        let token = secret("a-token-of-this-test");
        for (text, key) in [
            (format!("listen = \"127.0.0.1:1\"\n{LEAST}"), "listen"),
            (
                format!("legacy_listen = \"127.0.0.1:1\"\n{LEAST}"),
                "legacy_listen",
            ),
            (format!("admin_listen = \"none\"\n{LEAST}"), "admin_listen"),
            (
                format!(
                    "domain = \"d\"\nnetwork = \"default-domain:mesos-default:mesos-default-pod-task-network\"\n{LEAST}"
                ),
                "domain",
            ),
            (format!("network = \"n\"\n{LEAST}"), "network"),
            (format!("create = [\"projects\"]\n{LEAST}"), "create"),
            (format!("{LEAST}call_timeout = \"1s\""), "[vnc]"),
            (format!("{LEAST}[limits]\nports = 3"), "[limits]"),
            (format!("{LEAST}[mesos]\nmasters = \"a:1\""), "[mesos]"),
            (
                format!("{LEAST}[zookeeper]\nservers = \"zk://a:1/b\""),
                "[zookeeper]",
            ),
            (
                format!("{LEAST}[tls]\ncertificate = \"/c\"\nkey = \"/k\""),
                "[tls]",
            ),
        ] {
            assert_eq!(restart(&config(LEAST), &config(&text)), [key], "{text}");
        }
        let of_cluster = config(&format!(
            "cluster = \"c\"\nproject = \"mesos-default\"\nnetwork = \"mesos-default-pod-task-network\"\n{LEAST}"
        ));
        assert_eq!(restart(&config(LEAST), &of_cluster), ["cluster"]);
        let mesos = format!("{LEAST}[mesos]\nmasters = \"a:1\"\n");
        let other = config(&format!("{mesos}[reconcile]\nconcurrency = 3"));
        assert_eq!(restart(&config(&mesos), &other), ["reconcile.concurrency"]);
        // And none else.
        let other = format!(
            "token_file = \"{token}\"\n{mesos}[marathon]\nservers = [\"a\"]\n[reconcile]\nstabilization_window = \"2m\"\n\
             [provision]\npod_task_subnets = [\"10.32.0.0/12\"]"
        );
        assert_eq!(restart(&config(&mesos), &config(&other)), [""; 0]);
    }
}
