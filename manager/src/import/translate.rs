//! The translation, key by key.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::Keys;

/// Keys without a counterpart, and why. A star matches the rest of a name.
const UNSUPPORTED_KEYS: &[(&str, &str)] = &[
    (
        "worker_id",
        "several managers elect a leader: see [zookeeper]",
    ),
    (
        "collectors",
        "there is no Sandesh: see /metrics of admin_listen",
    ),
    ("logger_class", "there is no Sandesh"),
    (
        "logging_conf",
        "there is no Python: see --log-level and --log-format",
    ),
    (
        "log_local",
        "the log goes to standard error, which systemd keeps",
    ),
    ("log_category", "there is no Sandesh"),
    (
        "log_file",
        "the log goes to standard error, which systemd keeps",
    ),
    (
        "use_syslog",
        "the log goes to standard error, which systemd keeps",
    ),
    (
        "syslog_facility",
        "the log goes to standard error, which systemd keeps",
    ),
    (
        "disc_server_*",
        "Contrail's discovery service no longer exists",
    ),
    (
        "rabbit_*",
        "RabbitMQ is not used, nor was it by the old manager",
    ),
    (
        "kombu_*",
        "RabbitMQ is not used, nor was it by the old manager",
    ),
    (
        "cassandra_*",
        "the manager uses the VNC API, never its database",
    ),
    (
        "cluster_id",
        "it was the prefix of the database, which is not used",
    ),
    (
        "admin_*",
        "the old manager did not use it; see [vnc.keystone]",
    ),
    (
        "public_fip_pool",
        "the old manager did not use it; a container's label floating-ips names the pool",
    ),
    (
        "mesos_cni_secure_*",
        "the old manager did not use it; agents have TLS by [tls]",
    ),
    (
        "mesos_cluster_owner",
        "the owner of objects is always \"contrail-mesos\"; the cluster's name distinguishes them",
    ),
    (
        "mesos_agent_retry_sync_*",
        "agents send the names of their containers themselves",
    ),
    ("sandesh_*", "there is no Sandesh"),
    ("introspect_ssl_*", "there is no Sandesh"),
    ("dscp_value", "there is no Sandesh"),
    ("nodemgr_*", "it belongs to another service"),
];

/// The old keys that remain, and the tables of the new configuration.
struct Translation<'a> {
    remaining: BTreeMap<&'a str, &'a str>,
    top: String,
    zookeeper: String,
    vnc: String,
    provision: String,
    notes: Vec<String>,
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| quoted(&item)).collect();
    format!("[{}]", items.join(", "))
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{key} = {value}");
}

/// The equivalent configuration.
pub(super) fn toml(keys: &Keys, foreign: &[String]) -> String {
    let mut translation = Translation {
        remaining: keys
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect(),
        top: String::new(),
        zookeeper: String::new(),
        vnc: String::new(),
        provision: String::new(),
        notes: vec![],
    };
    translation.listeners();
    translation.names();
    translation.zookeeper();
    translation.vnc();
    translation.provision();
    translation.log_level();
    translation.rest();
    for section in foreign {
        translation.note(
            &format!("[{}]", section.escape_debug()),
            "the old manager did not read this section",
        );
    }
    translation.whole()
}

impl<'a> Translation<'a> {
    /// A key's value, if there is one.
    fn take(&mut self, key: &str) -> Option<&'a str> {
        self.remaining
            .remove(key)
            .filter(|value| !value.is_empty() && !value.eq_ignore_ascii_case("none"))
    }

    fn note(&mut self, key: &str, why: &str) {
        self.notes.push(format!("# {key}: {why}"));
    }

    fn port(&mut self, key: &str, default: u16) -> u16 {
        let Some(text) = self.take(key) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.note(
                key,
                &format!("{} is not a port; {default} is used", quoted(text)),
            );
            default
        })
    }

    fn listeners(&mut self) {
        let configured = self.remaining.contains_key("mesos_cni_server")
            || self.remaining.contains_key("mesos_cni_port");
        let server = self.take("mesos_cni_server").unwrap_or("localhost");
        let port = self.port("mesos_cni_port", 6991);
        let address = match server {
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            other => other.trim_matches(['[', ']']).parse().ok(),
        };
        match address {
            Some(address) if configured => {
                let address = std::net::SocketAddr::new(address, port).to_string();
                line(&mut self.top, "legacy_listen", &quoted(&address));
            }
            Some(_) => {}
            None => self.note(
                "mesos_cni_server",
                &format!(
                    "{} is a name; write legacy_listen with an address of this machine",
                    quoted(server)
                ),
            ),
        }
        if self.remaining.contains_key("http_server_port") {
            let port = self.port("http_server_port", 8109);
            line(
                &mut self.top,
                "admin_listen",
                &quoted(&format!("127.0.0.1:{port}")),
            );
        }
    }

    fn names(&mut self) {
        let cluster = self.take("mesos_cluster_name").unwrap_or("mesos");
        line(&mut self.top, "cluster", &quoted(cluster));
        let project = self.python("cluster_project");
        let domain = self.take("mesos_cluster_domain");
        let of_project = project.get("domain").map(String::as_str);
        if let Some(domain) = of_project.or(domain) {
            line(&mut self.top, "domain", &quoted(domain));
        }
        // The old manager used this project for everything, whatever containers requested.
        let name = project.get("project").or(project.get("name"));
        if let Some(name) = name {
            line(&mut self.top, "project", &quoted(name));
        }
        let tasks = self.python("cluster_pod_task_network");
        let other = self.python("cluster_network");
        let network = if tasks.is_empty() { other } else { tasks };
        let parts: Vec<&str> = ["domain", "project", "name"]
            .iter()
            .filter_map(|part| network.get(*part).map(String::as_str))
            .collect();
        match parts[..] {
            [] => {}
            [_, _, _] => line(&mut self.top, "network", &quoted(&parts.join(":"))),
            _ => self.note(
                "cluster_pod_task_network",
                "it needs domain, project and name",
            ),
        }
    }

    /// A Python dictionary of strings.
    fn python(&mut self, key: &str) -> BTreeMap<String, String> {
        let Some(text) = self.take(key) else {
            return BTreeMap::new();
        };
        serde_json::from_str(&text.replace('\'', "\"")).unwrap_or_else(|_| {
            let note = format!(
                "{} cannot be parsed; write project or network",
                quoted(text)
            );
            self.note(key, &note);
            BTreeMap::new()
        })
    }

    fn zookeeper(&mut self) {
        let Some(servers) = self.take("zk_server_ip") else {
            return;
        };
        let servers: Vec<String> = servers
            .split([',', ' '])
            .filter(|server| !server.is_empty())
            .map(|server| {
                if server.contains(':') {
                    server.to_owned()
                } else {
                    format!("{server}:2181")
                }
            })
            .collect();
        let url = format!("zk://{}/contrail-mesos", servers.join(","));
        let _ = write!(
            self.zookeeper,
            "# The old manager did not use zk_server_ip. With it several managers elect a leader:\n\
             # [zookeeper]\n# servers = {}\n",
            quoted(&url)
        );
    }

    fn vnc(&mut self) {
        let port = self.port("vnc_endpoint_port", 8082);
        let servers = self.take("vnc_endpoint_ip").unwrap_or("127.0.0.1");
        let servers = servers
            .split(',')
            .map(str::trim)
            .filter(|server| !server.is_empty());
        let servers = servers.map(|server| {
            // The old default, [127.0.0.1], was not a valid address.
            let bare = server.trim_matches(['[', ']']);
            match bare.parse::<IpAddr>() {
                Ok(IpAddr::V6(address)) => format!("http://[{address}]:{port}"),
                _ => format!("http://{bare}:{port}"),
            }
        });
        line(&mut self.vnc, "servers", &list(servers));
        let url = self.take("auth_token_url");
        let user = self.take("auth_user").unwrap_or("admin");
        let project = self.take("auth_tenant").unwrap_or("admin");
        let password = self.take("auth_password").is_some();
        let Some(url) = url else {
            if password {
                self.note("auth_*", "the password was not used without auth_token_url");
            }
            return;
        };
        let (base, version) = keystone(url);
        let _ = writeln!(self.vnc, "\n[vnc.keystone]");
        line(&mut self.vnc, "url", &quoted(base));
        line(&mut self.vnc, "user", &quoted(user));
        let _ = writeln!(
            self.vnc,
            "# Put the value of auth_password into this file; it is not written here."
        );
        line(
            &mut self.vnc,
            "password_file",
            &quoted("/etc/contrail-mesos/keystone.password"),
        );
        line(&mut self.vnc, "project", &quoted(project));
        if let Some(version) = version {
            line(&mut self.vnc, "version", version);
        }
    }

    fn provision(&mut self) {
        for key in ["pod_task_subnets", "ip_fabric_subnets"] {
            let Some(subnets) = self.take(key) else {
                self.note(key, "the old manager did not start without it");
                continue;
            };
            let subnets = subnets.split([' ', '\n', '\t', ',']);
            let subnets = subnets
                .filter(|subnet| !subnet.is_empty())
                .map(str::to_owned);
            line(&mut self.provision, key, &list(subnets));
        }
        for key in ["ip_fabric_forwarding", "ip_fabric_snat"] {
            if let Some(text) = self.take(key) {
                let truth = ["1", "yes", "true", "on"].contains(&text.to_lowercase().as_str());
                line(&mut self.provision, key, &truth.to_string());
            }
        }
    }

    fn log_level(&mut self) {
        let Some(level) = self.take("log_level") else {
            return;
        };
        let filter = match level.trim_start_matches("SYS_") {
            "EMERG" | "ALERT" | "CRIT" | "ERR" => "error",
            "WARN" => "warn",
            "NOTICE" | "INFO" => "info",
            "DEBUG" => "debug",
            _ => {
                let why = format!("{} is not known; see --log-level", quoted(level));
                return self.note("log_level", &why);
            }
        };
        self.note(
            "log_level",
            &format!("start contrail-mesos-manager with --log-level {filter}"),
        );
    }

    /// Notes the keys that have not been translated.
    fn rest(&mut self) {
        let rest: Vec<&str> = std::mem::take(&mut self.remaining).into_keys().collect();
        for key in rest {
            let known = UNSUPPORTED_KEYS
                .iter()
                .find(|(name, _)| match name.strip_suffix('*') {
                    Some(start) => key.starts_with(start),
                    None => key == *name,
                });
            let why = known.map_or("the old manager had no such key", |(_, why)| why);
            self.note(&key.escape_debug().to_string(), why);
        }
    }

    fn whole(self) -> String {
        let mut text = "# Translated from the configuration of Contrail's own mesos-manager. See manager.toml.example\n\
             # for all other keys, above all `listen` and `token_file` of the API for agents.\n"
            .to_owned();
        text.push_str(&self.top);
        for part in [&self.zookeeper, &format!("[vnc]\n{}", self.vnc)] {
            if !part.is_empty() {
                let _ = write!(text, "\n{part}");
            }
        }
        if !self.provision.is_empty() {
            let _ = write!(text, "\n[provision]\n{}", self.provision);
        }
        if !self.notes.is_empty() {
            let _ = write!(
                text,
                "\n# Keys that have no counterpart, and why:\n{}\n",
                self.notes.join("\n")
            );
        }
        text
    }
}

/// The URL of a Keystone without the path for tokens, and the version of that path.
fn keystone(url: &str) -> (&str, Option<&'static str>) {
    let url = url.trim_end_matches('/');
    for (path, version) in [
        ("/v3/auth/tokens", "3"),
        ("/v2.0/tokens", "2"),
        ("/v3", "3"),
        ("/v2.0", "2"),
    ] {
        if let Some(base) = url.strip_suffix(path) {
            return (base, Some(version));
        }
    }
    (url, None)
}
