//! Applies a new configuration at run time.
//!
//! Invariant: everything that can fail comes first, so that a configuration is applied as a whole or
//! not at all. Keys that need a restart are returned and keep their old values.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::sync::{Notify, watch};

use super::api::auth::Authenticator;
use super::cluster::Cluster;
use super::config::Config;
use super::contrail::Contrail;
use super::listener::{ConnectionMetrics, server_config};
use super::reconcile::Sources;
use super::services::Services;
use contrail_mesos_api::http::TlsError;

/// The parts of a running manager that can change.
#[derive(Debug)]
pub(super) struct Reloadable {
    /// The configuration in force.
    pub config: Arc<Mutex<Config>>,
    pub authenticator: Arc<Authenticator>,
    /// The certificate of the agents' API and the CAs that it trusts.
    pub tls: Option<watch::Sender<Arc<ServerConfig>>>,
    /// Have the expiry of that certificate.
    pub connections: ConnectionMetrics,
    pub contrail: Option<Contrail>,
    pub cluster: Option<Arc<Cluster>>,
    pub services: Option<Arc<Services>>,
    /// Notified when the API server must be provisioned again.
    pub provision: Arc<Notify>,
}

impl Reloadable {
    /// Applies a configuration. Returns the keys that need a restart. Reads files, which blocks.
    pub(super) fn reload(&self, new: &Config) -> Result<Vec<&'static str>, TlsError> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let tls = new.access.tls.as_ref().map(server_config).transpose()?;
        let sources = new.follow.as_ref().map(Sources::new).transpose()?;

        let restart = needs_restart(&config, new);
        let tls_unchanged = tls.is_some() == self.tls.is_some();
        if let (Some(sender), Some(tls)) = (&self.tls, tls) {
            sender.send_replace(tls.config);
            self.connections
                .set_certificate_expiry(tls.certificate_expiry);
        }
        if tls_unchanged {
            // Otherwise removing [tls] with its client_ca would leave the agents' API without
            // authentication until the restart.
            self.authenticator.replace(&new.access);
            config.access = new.access.clone();
        }
        let reconciler = self
            .contrail
            .as_ref()
            .and_then(|contrail| contrail.reconciler.as_ref());
        if let (Some(services), Some(follow), Some(sources)) =
            (&self.services, &new.follow, &sources)
        {
            services.reload(follow, sources.mesos_client());
        }
        if let (Some(reconciler), Some(follow), Some(sources)) = (reconciler, &new.follow, sources)
        {
            reconciler.reload(follow, sources);
        }
        if let (Some(cluster), Some(overlay)) = (&self.cluster, &new.overlay)
            && config.overlay.as_ref() != Some(overlay)
        {
            cluster.reload(overlay);
            config.overlay = Some(overlay.clone());
        }
        if let Some(cluster) = &self.cluster
            && config.security_groups != new.security_groups
        {
            cluster.set_security_groups(new.security_groups.clone());
            config.security_groups.clone_from(&new.security_groups);
        }
        if config.provision != new.provision {
            config.provision.clone_from(&new.provision);
            self.provision.notify_one();
        }
        Ok(restart)
    }
}

/// The changed keys that need a restart.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let follow = |config: &Config| config.follow.is_some();
    let concurrency = |config: &Config| config.follow.as_ref().map(|follow| follow.concurrency);
    let limits = |config: &Config| {
        (
            config.ports,
            config.name_cache_ttl,
            config.rollback_delay,
            config.connections,
        )
    };
    let checks = [
        ("listen", old.listen != new.listen),
        ("legacy_listen", old.legacy_listen != new.legacy_listen),
        ("admin_listen", old.admin_listen != new.admin_listen),
        ("allowed_hosts", old.allowed_hosts != new.allowed_hosts),
        ("cluster", old.defaults.cluster != new.defaults.cluster),
        ("domain", old.defaults.domain != new.defaults.domain),
        ("project", old.defaults.project != new.defaults.project),
        ("network", old.defaults.network != new.defaults.network),
        ("create", old.create != new.create),
        (
            "[tls]",
            old.access.tls.is_some() != new.access.tls.is_some(),
        ),
        ("[zookeeper]", old.zookeeper != new.zookeeper),
        ("[vnc]", old.vnc != new.vnc),
        ("[limits]", limits(old) != limits(new)),
        ("[mesos]", follow(old) != follow(new)),
        ("[services]", old.services != new.services),
        ("[overlay]", old.overlay.is_some() != new.overlay.is_some()),
        ("overlay.state_file", {
            let state_file = |config: &Config| {
                let overlay = config.overlay.as_ref();
                overlay.map(|overlay| overlay.state_file.clone())
            };
            let (old, new) = (state_file(old), state_file(new));
            old.is_some() && new.is_some() && old != new
        }),
        (
            "reconcile.concurrency",
            follow(old) == follow(new) && concurrency(old) != concurrency(new),
        ),
    ];
    checks
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const MINIMAL: &str = "[vnc]\nservers = [\"a\"]\n";

    fn config(text: &str) -> Config {
        Config::parse(Path::new("m.toml"), text).unwrap()
    }

    #[test]
    fn keys_that_need_a_restart_are_returned() {
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
                "{MINIMAL}[vnc.basic]\nuser = \"u\"\npassword_file = \"{file}\""
            ))
        };
        assert_eq!(needs_restart(&basic("one"), &basic("two")), ["[vnc]"]);
        assert_eq!(needs_restart(&basic("one"), &basic("one")), [""; 0]);
        let token = secret("a-token-of-this-test");
        for (text, key) in [
            (format!("listen = \"127.0.0.1:1\"\n{MINIMAL}"), "listen"),
            (
                format!("legacy_listen = \"127.0.0.1:1\"\n{MINIMAL}"),
                "legacy_listen",
            ),
            (
                format!("admin_listen = \"none\"\n{MINIMAL}"),
                "admin_listen",
            ),
            (
                format!(
                    "domain = \"d\"\nnetwork = \"default-domain:mesos-default:mesos-default-pod-task-network\"\n{MINIMAL}"
                ),
                "domain",
            ),
            (format!("network = \"n\"\n{MINIMAL}"), "network"),
            (
                format!("allowed_hosts = [\"a\"]\n{MINIMAL}"),
                "allowed_hosts",
            ),
            (format!("create = [\"projects\"]\n{MINIMAL}"), "create"),
            (format!("{MINIMAL}call_timeout = \"1s\""), "[vnc]"),
            (format!("{MINIMAL}[limits]\nports = 3"), "[limits]"),
            (format!("{MINIMAL}[limits]\nconnections = 64"), "[limits]"),
            (format!("{MINIMAL}[mesos]\nmasters = \"a:1\""), "[mesos]"),
            (
                format!("{MINIMAL}[zookeeper]\nservers = \"zk://a:1/b\""),
                "[zookeeper]",
            ),
            (
                format!("{MINIMAL}[tls]\ncertificate = \"/c\"\nkey = \"/k\""),
                "[tls]",
            ),
        ] {
            assert_eq!(
                needs_restart(&config(MINIMAL), &config(&text)),
                [key],
                "{text}"
            );
        }
        let overlays = directory.path().join("overlays.json");
        std::fs::write(
            &overlays,
            r#"{"vtep_subnet": "44.128.0.0/16", "vtep_mac_oui": "70:B3:D5:00:00:00", "overlays": [{"name": "a", "subnet": "9.0.0.0/8", "prefix": 24}]}"#,
        )
        .unwrap();
        let overlay =
            |key: &str| config(&format!("{MINIMAL}[overlay]\nfile = {overlays:?}\n{key}"));
        assert_eq!(needs_restart(&config(MINIMAL), &overlay("")), ["[overlay]"]);
        let other = overlay("state_file = \"/other\"");
        assert_eq!(needs_restart(&overlay(""), &other), ["overlay.state_file"]);
        for key in [
            "release_after = \"60m\"",
            "[[security_group]]\nname = \"web\"",
        ] {
            assert_eq!(needs_restart(&overlay(""), &overlay(key)), [""; 0], "{key}");
        }
        let of_cluster = config(&format!(
            "cluster = \"c\"\nproject = \"mesos-default\"\nnetwork = \"mesos-default-pod-task-network\"\n{MINIMAL}"
        ));
        assert_eq!(needs_restart(&config(MINIMAL), &of_cluster), ["cluster"]);
        let mesos = format!("{MINIMAL}[mesos]\nmasters = \"a:1\"\n");
        let other = config(&format!("{mesos}[reconcile]\nconcurrency = 3"));
        assert_eq!(
            needs_restart(&config(&mesos), &other),
            ["reconcile.concurrency"]
        );
        let services = |keys: &str| config(&format!("{mesos}[services]\n{keys}"));
        assert_eq!(
            needs_restart(&config(&mesos), &services("")),
            ["[services]"]
        );
        let other = services("grace = \"5m\"");
        assert_eq!(needs_restart(&services(""), &other), ["[services]"]);
        // All other keys change at run time.
        let other = format!(
            "token_file = \"{token}\"\n{mesos}[marathon]\nservers = [\"a\"]\n[reconcile]\nstabilization_window = \"2m\"\n\
             [provision]\npod_task_subnets = [\"10.32.0.0/12\"]"
        );
        assert_eq!(needs_restart(&config(&mesos), &config(&other)), [""; 0]);
    }
}
