//! The file's top level, and the tables that are read nowhere else.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use super::fields::{authorities, credentials, identity, secret};
use super::{
    Access, Config, Connections, Provision, Tls, follow, overlay, security_groups, services,
    zookeeper,
};
use crate::config::{ConfigError, ConfigProblem};
use crate::logging;
use crate::model::{self, Create, Defaults};
use crate::vnc::{Auth, FqName, Keystone, KeystoneVersion, VncOptions, server_address};
use contrail_mesos_api::config_reader::{Document, Section};
use contrail_mesos_api::http::{Address, Limits, TlsOptions};

/// Shorter than the half minute that an agent waits for a launch.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The port of Keystone if its address has none.
const KEYSTONE_PORT: u16 = 5000;
/// Shorter tokens could be guessed.
const MIN_TOKEN_LENGTH: usize = 16;
/// The shortest time that a peer has to send a request.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const ADDRESS: &str = "an address and port such as \"127.0.0.1:6992\"";
const SUBNET: &str = "a subnet such as \"10.32.0.0/12\"";

/// What a file says.
pub(super) struct ParsedFile {
    pub(super) config: Result<Config, ConfigError>,
    /// What is probably a mistake, whether the file is valid or not.
    pub(super) warnings: Vec<ConfigProblem>,
    pub(super) notes: Vec<ConfigProblem>,
}

pub(super) fn parse(document: Document<'_>) -> ParsedFile {
    let table = document.parse();
    let top = Section::top(&document, &table);
    let config = read(&top);
    let overlay = overlay::read(&top);
    let configured = overlay.as_ref().ok().and_then(Option::as_ref);
    services::check(&top, config.services.as_ref(), configured);
    top.finish();
    let (mut warnings, notes) = (document.warnings(), document.notes());
    let config = match (document.finish(), overlay) {
        (Ok(()), Ok(overlay)) => {
            let networks = overlay.iter().map(|overlay| &overlay.networks);
            warnings.extend(networks.flat_map(|networks| networks.warnings.clone()));
            Ok(Config {
                overlay,
                warnings: warnings.clone(),
                ..config
            })
        }
        (Ok(()), Err(error)) | (Err(error), Ok(_)) => Err(error),
        (Err(error), Err(more)) => Err(error.and(more)),
    };
    ParsedFile {
        config,
        warnings,
        notes,
    }
}

fn read(top: &Section<'_>) -> Config {
    let config = Config {
        vnc: top.section("vnc").map(vnc),
        ..Config::default()
    };
    let config = match top.section("limits") {
        Some(section) => limits(section, config),
        None => config,
    };
    let config = Config {
        listen: top
            .parsed::<SocketAddr>("listen", ADDRESS)
            .unwrap_or(config.listen),
        legacy_listen: top.parsed::<SocketAddr>("legacy_listen", ADDRESS),
        admin_listen: admin(top, config.admin_listen),
        allowed_hosts: allowed_hosts(top),
        access: access(top),
        zookeeper: zookeeper::read(top),
        defaults: defaults(top),
        create: create(top),
        provision: top.section("provision").map(provision),
        log_level: log_level(top),
        follow: follow::read(top),
        services: services::read(top),
        security_groups: security_groups::read(top),
        ..config
    };
    let authenticated = !config.access.tokens.is_empty()
        || config
            .access
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some());
    // A secret that cannot be read is reported elsewhere; it is not missing.
    let authenticated = authenticated || top.has("token_file") || top.has("token_env");
    if !config.listen.ip().is_loopback() && !authenticated {
        top.problem(
            "listen",
            format!(
                "{} can be reached from other machines, and everyone who reaches it could change every \
                 container: write token_file or token_env, or client_ca in [tls], or listen on \
                 \"127.0.0.1:{}\"",
                config.listen,
                config.listen.port()
            ),
        );
    }
    if config.legacy_listen == Some(config.listen) && config.listen.port() != 0 {
        top.problem("legacy_listen", "is the same as listen; take another port");
    }
    let others = [Some(config.listen), config.legacy_listen];
    if let Some(admin) = config.admin_listen
        && admin.port() != 0
        && others.contains(&Some(admin))
    {
        let message = "is the same as listen or legacy_listen; take another port";
        top.problem("admin_listen", message);
    }
    if top.is_check() {
        warn_of_changing_ports(top, &config);
    }
    zookeeper::check(top, &config);
    check_contrail(top, &config);
    config
}

fn warn_of_changing_ports(top: &Section<'_>, config: &Config) {
    let listeners = [
        ("listen", Some(config.listen)),
        ("legacy_listen", config.legacy_listen),
        ("admin_listen", config.admin_listen),
    ];
    for (key, address) in listeners {
        if address.is_some_and(|address| address.port() == 0) {
            let message = "port 0: it is another port after each start, which nobody knows";
            top.warning(key, message);
        }
    }
}

/// What is of Contrail needs its API.
fn check_contrail(top: &Section<'_>, config: &Config) {
    // A table that is no table, or misspelt, is reported as such.
    let is_there = |table: &str| top.has(table) || top.is_misspelt(table);
    if config.vnc.is_some() || is_there("vnc") {
        return;
    }
    if !is_there("overlay") && !is_there("services") {
        let message = "is missing: write a table [vnc] with servers = [\"http://10.84.22.1:8082\"], or, \
                       for overlay networks or services without Contrail, a table [overlay] or [services]";
        top.problem("vnc", message);
        return;
    }
    for key in ["legacy_listen", "provision"] {
        if top.has(key) {
            top.problem(key, "needs a table [vnc] with the servers of the VNC API");
        }
    }
    let follows_mesos = is_there("services");
    for key in [
        "domain",
        "project",
        "network",
        "create",
        "mesos",
        "marathon",
        "reconcile",
    ] {
        // Services need what Mesos says, and know how far to trust it.
        if top.has(key) && !(follows_mesos && ["mesos", "reconcile"].contains(&key)) {
            top.warning(key, "has no effect without a table [vnc]");
        }
    }
}

fn admin(top: &Section<'_>, default: Option<SocketAddr>) -> Option<SocketAddr> {
    let expected = "an address and port such as \"127.0.0.1:6993\", or \"none\"";
    let address = top.checked("admin_listen", expected, |text| match text {
        "none" => Ok(None),
        address => address.parse().map(Some).map_err(|_| String::new()),
    });
    address.unwrap_or(default)
}

fn allowed_hosts(top: &Section<'_>) -> Vec<String> {
    const KEY: &str = "allowed_hosts";
    let expected =
        "a host's name without a port such as \"status.example\", or \"*\" for every name";
    let names = top.parsed_list::<String>(KEY, expected).unwrap_or_default();
    for name in &names {
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !is_name && name != "*" {
            top.problem(KEY, format!("expected {expected}, found {name:?}"));
        }
    }
    names
}

fn log_level(top: &Section<'_>) -> Option<String> {
    let level = top.text("log_level", "what to log, such as \"info\"")?;
    match logging::check(&level) {
        Ok(()) => Some(level),
        Err(error) => {
            top.problem("log_level", error.to_string());
            None
        }
    }
}

/// Whether it is long enough, and can be in a header.
pub(crate) fn is_token(text: &str) -> bool {
    text.len() >= MIN_TOKEN_LENGTH && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn access(top: &Section<'_>) -> Access {
    let text = secret(top, "token", "the agents' shared token").unwrap_or_default();
    let tokens: Vec<SecretString> = text
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .map(|line| {
            if !is_token(&line) {
                let key = if top.has("token_file") {
                    "token_file"
                } else {
                    "token_env"
                };
                let message = format!(
                    "a token needs at least {MIN_TOKEN_LENGTH} printable ASCII characters without \
                     spaces; create one with `openssl rand -hex 32`"
                );
                top.problem(key, message);
            }
            SecretString::from(line)
        })
        .collect();
    let operators = top
        .checked_list("operators", "a name in an operator's certificate", |name| {
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            is_name.then(|| name.to_owned()).ok_or_else(String::new)
        })
        .unwrap_or_default();
    let tls = top.section("tls").and_then(tls);
    let has_certificates = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if top.has("operators") && !has_certificates {
        let message =
            "has no effect without client_ca in [tls]: everyone with the token may delete nodes";
        top.warning("operators", message);
    }
    Access {
        tokens,
        tls,
        operators,
    }
}

fn tls(section: Section<'_>) -> Option<Tls> {
    let identity = identity(&section);
    let client_ca = authorities(&section, "client_ca");
    if identity.is_none() && !section.has("certificate") && !section.has("key") {
        section.problem(
            "",
            "TLS needs a certificate: write certificate and key, both PEM files",
        );
    }
    section.finish();
    Some(Tls {
        identity: identity?,
        client_ca,
    })
}

fn defaults(top: &Section<'_>) -> Defaults {
    let name = |key: &str| {
        let name = top.text(key, "a name")?;
        let valid = !name.is_empty()
            && !name
                .chars()
                .any(|character| ":,".contains(character) || character.is_control());
        if !valid {
            top.problem(key, format!("{name:?} is not a name: it must not be empty or contain a colon, comma or control character"));
        }
        valid.then_some(name)
    };
    let mut defaults = Defaults::of(&name("cluster").unwrap_or_else(|| "mesos".to_owned()));
    if let Some(domain) = name("domain") {
        defaults.domain = domain;
    }
    if let Some(project) = name("project") {
        defaults.project = project;
    }
    let in_project =
        |name: &str| FqName::new([defaults.domain.as_str(), defaults.project.as_str(), name]);
    let own = defaults.network.name().to_owned();
    let configured = top.parsed::<FqName>(
        "network",
        "a network such as \"blue\" or \"domain:project:blue\"",
    );
    defaults.network = match configured {
        None => in_project(&own),
        Some(name) => match name.parts() {
            [name] => in_project(name),
            [_, _, _] => name,
            _ => {
                let message = format!(
                    "\"{name}\" has not one part, or three: write \"network\" or \"domain:project:network\""
                );
                top.problem("network", message);
                in_project(&own)
            }
        },
    };
    defaults
}

fn create(top: &Section<'_>) -> Create {
    let mut create = Create::default();
    let expected = "one of \"domains\", \"projects\" and \"networks\"";
    let words = ["domains", "projects", "networks"];
    for what in top.words("create", &words, expected) {
        match what {
            "domains" => create.domains = true,
            "projects" => create.projects = true,
            _ => create.networks = true,
        }
    }
    create
}

fn provision(section: Section<'_>) -> Provision {
    let subnets = |key: &str| {
        let subnets = section
            .parsed_list::<IpNet>(key, SUBNET)
            .unwrap_or_default();
        for (index, subnet) in subnets.iter().enumerate() {
            if *subnet != subnet.trunc() {
                let message = format!(
                    "{subnet} has bits beyond its prefix; write {}",
                    subnet.trunc()
                );
                section.problem(key, message);
            }
            if let Some(problem) = model::too_small(*subnet) {
                section.problem(key, problem);
            }
            let others = &subnets[..index];
            if let Some(other) = others
                .iter()
                .find(|other| other.contains(subnet) || subnet.contains(*other))
            {
                section.problem(key, format!("{subnet} and {other} overlap"));
            }
        }
        subnets
    };
    let provision = Provision {
        pod_task_subnets: subnets("pod_task_subnets"),
        ip_fabric_subnets: subnets("ip_fabric_subnets"),
        ip_fabric_forwarding: section.boolean("ip_fabric_forwarding", false),
        ip_fabric_snat: section.boolean("ip_fabric_snat", false),
    };
    let (key, needed) = if provision.ip_fabric_forwarding {
        ("ip_fabric_subnets", &provision.ip_fabric_subnets)
    } else {
        ("pod_task_subnets", &provision.pod_task_subnets)
    };
    if needed.is_empty() && !section.has(key) {
        section.problem(
            key,
            format!("is missing: the default network needs {SUBNET}"),
        );
    } else if needed.is_empty() {
        section.problem(key, format!("is empty: the default network needs {SUBNET}"));
    }
    section.finish();
    provision
}

fn limits(section: Section<'_>, config: Config) -> Config {
    let count = |key: &str, default: usize| {
        let count = section.integer(key, 16..=1_000_000);
        count.map_or(default, |count| count as usize)
    };
    let timeout = |key: &str, default: Duration| {
        let timeout = section.duration(key, default);
        if timeout < MIN_TIMEOUT {
            section.problem(key, "expected a time of at least \"1s\"");
        }
        timeout
    };
    let defaults = config.connections;
    let connections = Connections {
        total: count("connections", defaults.total),
        per_address: count("connections_per_address", defaults.per_address),
        idle_timeout: timeout("idle_timeout", defaults.idle_timeout),
        body_timeout: timeout("body_timeout", defaults.body_timeout),
    };
    let config = Config {
        connections,
        ports: section
            .integer("ports", 1..=64)
            .map_or(config.ports, |ports| ports as usize),
        name_cache_ttl: section.duration("name_cache_ttl", config.name_cache_ttl),
        rollback_delay: section.duration("rollback_delay", config.rollback_delay),
        ..config
    };
    section.finish();
    config
}

fn vnc(section: Section<'_>) -> VncOptions {
    let address = "an API server's address such as \"http://10.84.22.1:8082\"";
    let servers = section.parsed_list_with("servers", address, server_address);
    if !section.has("servers") {
        section.problem(
            "servers",
            format!("is missing: an array, each entry {address}"),
        );
    } else if section.is_empty_list("servers") {
        section.problem(
            "servers",
            format!("is empty: an array, each entry {address}"),
        );
    }
    let options = VncOptions::new(servers.unwrap_or_default());
    let options = VncOptions {
        tls: TlsOptions {
            ca: authorities(&section, "ca"),
            identity: identity(&section),
        },
        limits: Limits {
            request_timeout: section.duration("request_timeout", options.limits.request_timeout),
            ..options.limits
        },
        call_timeout: section.duration("call_timeout", CALL_TIMEOUT),
        in_flight: section
            .integer("in_flight", 1..=10_000)
            .map_or(options.in_flight, |calls| calls as usize),
        auth: auth(&section),
        ..options
    };
    section.finish();
    options
}

fn auth(section: &Section<'_>) -> Auth {
    let keystone = section.section("keystone").map(keystone);
    let basic = section.section("basic").map(|section| {
        let (user, password) = credentials(&section);
        section.finish();
        Auth::Basic { user, password }
    });
    if keystone.is_some() && basic.is_some() {
        section.problem("basic", "[vnc.keystone] is there as well; write one");
    }
    keystone.or(basic).unwrap_or_default()
}

/// Fails for what can be no Keystone's address.
fn keystone_url(url: &str) -> Result<(), String> {
    if url.contains("://") {
        let address = Address::parse(url, KEYSTONE_PORT);
        address.map(drop).map_err(|error| error.to_string())
    } else {
        Err("has no scheme: write http:// or https:// before it".to_owned())
    }
}

fn keystone(section: Section<'_>) -> Auth {
    let (user, password) = credentials(&section);
    let url = section.text(
        "url",
        "a keystone's address such as \"http://10.84.22.1:35357\"",
    );
    if !section.has("url") {
        let message = "is missing: a keystone's address such as \"http://10.84.22.1:35357\"";
        section.problem("url", message);
    }
    // It is part of messages.
    if url.as_deref().is_some_and(|url| url.contains('@')) {
        let message = "has a user or a password in it: write user and password_file instead";
        section.problem("url", message);
    } else if let Some(url) = &url
        && let Err(reason) = keystone_url(url)
    {
        section.problem("url", reason);
    }
    let project = section.text("project", "a project's name");
    let domain = section.text("domain", "a domain's name");
    let version = match section.integer("version", 2..=3) {
        None => KeystoneVersion::Any,
        Some(2) => KeystoneVersion::V2,
        Some(_) => KeystoneVersion::V3,
    };
    section.finish();
    Auth::Keystone(Keystone {
        url: url.unwrap_or_default(),
        user,
        password,
        project: project.unwrap_or_else(|| "admin".to_owned()),
        domain: domain.unwrap_or_else(|| "Default".to_owned()),
        version,
    })
}
