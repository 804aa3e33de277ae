use secrecy::ExposeSecret as _;

use super::*;
use crate::mesos_master::Masters;
use crate::vnc::{Auth, KeystoneVersion};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::config_reader::reference::Reference;
use contrail_mesos_api::http::Credentials;

const EXAMPLE: &str = include_str!("../../../manager.toml.example");

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse(Path::new("m.toml"), text)
        .map_err(|error| error.problems.iter().map(ToString::to_string).collect())
}

/// A table `[overlay]` with this file and defaults.
fn parse_overlay(file: &Path) -> OverlayOptions {
    let config = parse(&format!("[overlay]\nfile = {file:?}")).unwrap();
    config.overlay.unwrap()
}

/// The example with all keys and tables uncommented, and with the files in this directory.
fn uncommented_example(directory: &Path) -> String {
    let lines = EXAMPLE.lines().map(|line| {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split_once(" = ").is_some_and(|(key, _)| {
            key.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        });
        if key || bare.starts_with('[') && bare.ends_with(']') {
            bare
        } else {
            line
        }
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let directory = format!("{}/", directory.display());
    text.replace("/etc/contrail-mesos/", &directory)
}

#[test]
fn the_example_is_right_as_it_stands_and_says_the_defaults() {
    let config = parse(EXAMPLE).unwrap();
    let default = Config::new(config.vnc.clone().unwrap());
    assert_eq!(config.listen, default.listen);
    assert_eq!(config.legacy_listen, None);
    assert_eq!(config.admin_listen, default.admin_listen);
    assert!(config.zookeeper.is_none());
    assert_eq!(config.defaults, default.defaults);
    assert_eq!(config.ports, default.ports);
    assert_eq!(config.connections, default.connections);
    assert_eq!(config.name_cache_ttl, default.name_cache_ttl);
    assert_eq!(config.rollback_delay, default.rollback_delay);
    assert!(config.follow.is_none());
    assert!(config.create.networks && !config.create.projects && !config.create.domains);
    let subnets = config.provision.unwrap();
    assert_eq!(subnets.pod_task_subnets[0].to_string(), "10.32.0.0/12");
    let least = parse("[vnc]\nservers = [\"a\"]").unwrap();
    let (vnc, same) = (least.vnc.as_ref().unwrap(), config.vnc.as_ref().unwrap());
    assert_eq!(vnc.call_timeout, same.call_timeout);
    assert_eq!(vnc.limits, same.limits);
    assert_eq!(vnc.in_flight, same.in_flight);
    assert_eq!(least.provision, None);
}

fn check_services(config: &Config) {
    let expected = ServicesOptions {
        routed_networks: ["shared".to_owned()].into(),
        contrail: Some(ServicesContrailOptions {
            network: "default-domain:mesos-default:mesos-services"
                .parse()
                .unwrap(),
            floating_ip_pools: vec![
                "default-domain:default-project:__public__:__fip_pool_public__"
                    .parse()
                    .unwrap(),
            ],
            dns: Some(LinkLocalDns {
                address: [169, 254, 169, 53].into(),
                servers: vec![[10, 84, 22, 27].into(), [10, 84, 22, 28].into()],
            }),
            virtual_dns: Some("default-domain:mesos-names".parse().unwrap()),
        }),
        ..ServicesOptions::default()
    };
    assert_eq!(config.services, Some(expected));
}

/// [`uncommented_example`] with the files that it names.
fn example_with_files(directory: &Path) -> String {
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write("manager.token", "0123456789abcdef\n\nfedcba9876543210\n");
    write("keystone.password", "secret\n");
    write("zookeeper.password", "secret\n");
    write("mesos.password", "secret\n");
    write(
        "overlay.json",
        r#"{"vtep_subnet": "44.128.0.0/16", "vtep_mac_oui": "70:B3:D5:00:00:00",
            "overlays": [{"name": "a", "subnet": "9.0.0.0/8", "prefix": 24}]}"#,
    );
    uncommented_example(directory)
}

#[test]
fn every_key_of_the_example_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let text = example_with_files(directory.path());
    let problems = parse(&text).unwrap_err();
    // Two kinds of authentication, of which the second names an unset variable.
    assert_eq!(problems.len(), 2, "{problems:#?}");
    let text = text.split("[vnc.basic]").next().unwrap().to_owned()
        + &text[text.find("\n[provision]").unwrap()..];
    let config = parse(&text).unwrap();
    let tokens: Vec<_> = config
        .access
        .tokens
        .iter()
        .map(SecretString::expose_secret)
        .collect();
    assert_eq!(tokens, ["0123456789abcdef", "fedcba9876543210"]);
    let tls = config.access.tls.as_ref().unwrap();
    assert!(tls.client_ca.as_ref().unwrap().ends_with("agents-ca.pem"));
    assert!(tls.identity.key.ends_with("manager.key"));
    assert!(
        config
            .vnc
            .as_ref()
            .unwrap()
            .tls
            .ca
            .as_ref()
            .unwrap()
            .ends_with("contrail-ca.pem")
    );
    assert_eq!(config.legacy_listen, "127.0.0.1:6991".parse().ok());
    let overlay = config.overlay.as_ref().unwrap();
    assert_eq!(overlay.release_after, Some(Duration::from_hours(24)));
    assert_eq!(overlay.state_file, parse_overlay(&overlay.file).state_file);
    check_services(&config);
    let groups = config.security_groups.iter();
    let groups: Vec<_> = groups
        .map(|group| (group.name.as_str(), group.rules.len()))
        .collect();
    assert_eq!(groups, [("web", 2)]);
    let zookeeper = config.zookeeper.as_ref().unwrap();
    assert_eq!(
        zookeeper.servers,
        "10.84.22.1:2181,10.84.22.2:2181,10.84.22.3:2181"
    );
    assert_eq!(zookeeper.path, "/contrail-mesos");
    let digest = zookeeper.digest.as_ref().unwrap();
    assert_eq!(digest.expose_secret(), "contrail-mesos:secret");
    assert_eq!(
        zookeeper.advertise,
        agent_api::manager_address("https://master-1:6992").ok()
    );
    let Auth::Keystone(keystone) = &config.vnc.as_ref().unwrap().auth else {
        panic!()
    };
    assert_eq!(keystone.password.expose_secret(), "secret");
    assert_eq!(
        (keystone.domain.as_str(), keystone.version),
        ("Default", KeystoneVersion::V3)
    );
    let follow = config.follow.as_ref().unwrap();
    let Credentials::Basic { user, password } = &follow.mesos.access.credentials else {
        panic!()
    };
    assert_eq!(
        (user.as_str(), password.expose_secret()),
        ("contrail", "secret")
    );
    let Masters::ZooKeeper(zookeeper) = &follow.mesos.masters else {
        panic!()
    };
    assert_eq!(
        zookeeper.to_string(),
        "zk://10.84.22.1:2181,10.84.22.2:2181/mesos"
    );
    let marathon = follow.marathon.as_ref().unwrap();
    assert_eq!(marathon.servers.len(), 2);
    assert!(matches!(
        &marathon.access.credentials,
        Credentials::TokenFile(path) if path.ends_with("dcos.token")
    ));
    let default = Follow::new(follow.mesos.clone());
    assert_eq!(follow.policy, default.policy);
    assert_eq!(
        (follow.resync, follow.concurrency, follow.page_size),
        (default.resync, default.concurrency, default.page_size)
    );
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("secret\"") && !shown.contains("0123456789abcdef"),
        "{shown}"
    );
}

#[test]
fn all_problems_are_reported_at_once_with_their_lines() {
    let problems = parse(
        r#"
listen = "0.0.0.0:6992"
legacy_listen = "here"
cluster = "a:b"
network = "a:b"
create = ["networks", "everything"]
tokn = "x"
[tls]
certificate = "/x.pem"
[vnc]
servers = ["http://a/b"]
call_timeout = 5
[vnc.keystone]
user = "u"
[provision]
pod_task_subnets = ["10.32.0.1/12", "nonsense"]
[limits]
ports = 0
"#,
    )
    .unwrap_err();
    for (line, expected) in [
        (2, "listen: 0.0.0.0:6992 can be reached from other machines"),
        (3, "legacy_listen: expected an address and port"),
        (4, "cluster: \"a:b\" is not a name"),
        (5, "network: \"a:b\" has not one part, or three"),
        (
            6,
            "create: expected one of \"domains\", \"projects\" and \"networks\", found \"everything\"",
        ),
        (7, "tokn: unknown key"),
        (8, "tls: certificate and key go together"),
        (11, "vnc.servers: expected an API server's address"),
        (12, "vnc.call_timeout: expected a duration"),
        (13, "vnc.keystone.password_file: no password"),
        (13, "vnc.keystone.url: is missing"),
        (
            16,
            "provision.pod_task_subnets: 10.32.0.1/12 has bits beyond its prefix; write 10.32.0.0/12",
        ),
        (16, "provision.pod_task_subnets: expected a subnet"),
        (18, "limits.ports: expected a number from 1 to 64"),
    ] {
        let found = problems.iter().filter(|problem| {
            let (place, message) = problem.split_once(": ").unwrap_or_default();
            place.starts_with(&format!("m.toml:{line}:")) && message.starts_with(expected)
        });
        assert_eq!(found.count(), 1, "{line} {expected}: {problems:#?}");
    }
    assert_eq!(problems.len(), 14, "{problems:#?}");
    assert!(parse("").unwrap_err()[0].contains("vnc: is missing"));
    assert!(parse("[vnc]").unwrap_err()[0].contains("vnc.servers: is missing"));
}

#[test]
fn secret_that_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let text = format!("token_file = {token:?}\n[vnc]\nservers = [\"a\"]\n");
    for (mode, warnings) in [(0o600, 0), (0o666, 1)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&token, permissions).unwrap();
        let found = parse(&text).unwrap().warnings;
        assert_eq!(found.len(), warnings, "{found:?}");
        for warning in found {
            assert_eq!(warning.key, "token_file");
            assert!(warning.message.contains("0666"), "{warning}");
        }
    }
}

#[test]
fn limits_and_hosts_are_validated() {
    let vnc = "[vnc]\nservers = [\"a\"]\n";
    for (text, expected) in [
        ("[limits]\nconnections = 1", "limits.connections: expected"),
        (
            "[limits]\nconnections_per_address = 0",
            "limits.connections_per_address: expected",
        ),
        ("[limits]\nidle_timeout = \"1ms\"", "at least \"1s\""),
        ("[limits]\nbody_timeout = \"0s\"", "body_timeout"),
        ("allowed_hosts = [\"a:80\"]", "allowed_hosts: expected"),
        ("allowed_hosts = [\"http://a\"]", "allowed_hosts: expected"),
        ("allowed_hosts = [\"\"]", "allowed_hosts: expected"),
    ] {
        let text = if text.starts_with('[') {
            format!("{vnc}{text}")
        } else {
            format!("{text}\n{vnc}")
        };
        let problems = parse(&text).unwrap_err();
        assert!(problems[0].contains(expected), "{text}: {problems:#?}");
        assert_eq!(problems.len(), 1, "{problems:#?}");
    }
    let config = parse(&format!("allowed_hosts = [\"*\", \"a.b\"]\n{vnc}")).unwrap();
    assert_eq!(config.allowed_hosts, ["*", "a.b"]);
}

#[test]
fn password_in_the_url_of_keystone_is_refused_and_not_shown() {
    let text = "[vnc]\nservers = [\"a\"]\n[vnc.keystone]\nuser = \"u\"\npassword_env = \"PATH\"\n\
        url = \"http://admin:SecretPw1@keystone:35357\"\n";
    let problems = parse(text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("password_file"), "{problems:#?}");
    assert!(!problems[0].contains("SecretPw1"), "{problems:#?}");
}

#[test]
fn addresses_that_can_never_work_are_refused() {
    for (text, expected) in [
        ("servers = [\"http://a:0\"]", "vnc.servers: expected"),
        (
            "servers = [\"a\"]\n[vnc.keystone]\nuser = \"u\"\npassword_env = \"PATH\"\nurl = \"keystone:35357\"",
            "vnc.keystone.url: has no scheme",
        ),
        (
            "servers = [\"a\"]\n[vnc.keystone]\nuser = \"u\"\npassword_env = \"PATH\"\nurl = \"ftp://keystone\"",
            "vnc.keystone.url: \"ftp://keystone\" is not a server's address",
        ),
    ] {
        let problems = parse(&format!("[vnc]\n{text}\n")).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].contains(expected), "{problems:#?}");
    }
}

#[test]
fn source_tables_are_validated() {
    let vnc = "[vnc]\nservers = [\"a\"]\n";
    let wrong = |text: &str, expected: &str| {
        let problems = parse(&format!("{vnc}{text}")).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].contains(expected), "{problems:#?}");
    };
    wrong("[mesos]\n", "mesos.masters: is missing");
    wrong(
        "[mesos]\nmasters = \"zk://a\"",
        "mesos.masters: expected masters such as",
    );
    wrong(
        "[marathon]\nservers = [\"a\"]",
        "marathon: needs a table [mesos]",
    );
    wrong(
        "[reconcile]\nresync = \"1m\"",
        "reconcile: needs a table [mesos]",
    );
    let mesos = "[mesos]\nmasters = \"a\"\n";
    wrong(
        &format!("{mesos}[marathon]\nservers = []"),
        "marathon.servers: is empty",
    );
    wrong(
        &format!("{mesos}[marathon]\nservers = [\"a\", \"ftp://a\"]"),
        "marathon.servers: expected a Marathon",
    );
    wrong(
        &format!("{mesos}[reconcile]\ngrace_period = \"1s\""),
        "reconcile.grace_period: is less than stabilization_window",
    );
    wrong(
        &format!("{mesos}[reconcile]\nconcurrency = 0"),
        "reconcile.concurrency: expected a number",
    );
    wrong(
        &format!("{mesos}[mesos.basic]\nuser = \"u\""),
        "mesos.basic.password_file: no password",
    );
    let least = parse(&format!("{vnc}{mesos}")).unwrap();
    assert!(least.follow.unwrap().marathon.is_none());
}

#[test]
fn non_loopback_address_needs_a_token_or_client_ca() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let vnc = "[vnc]\nservers = [\"a\"]\n";
    let with =
        |top: &str, tls: &str| parse(&format!("listen = \"10.0.0.1:1\"\n{top}\n{tls}\n{vnc}"));
    let file = format!("token_file = {:?}", token.display().to_string());
    let problem = with(&file, "").unwrap_err();
    assert!(
        problem.len() == 1 && problem[0].contains("cannot read"),
        "{problem:?}"
    );
    for (text, right) in [
        ("0123456789abcdef", true),
        ("short", false),
        ("", false),
        ("0123456789 abcdef", false),
    ] {
        std::fs::write(&token, text).unwrap();
        let read = with(&file, "");
        assert_eq!(read.is_ok(), right, "{text:?}");
        assert!(text.is_empty() || read.is_ok() || !read.unwrap_err().concat().contains(text));
    }
    let own = "[tls]\ncertificate = \"c\"\nkey = \"k\"\n";
    assert!(with("", own).unwrap_err()[0].contains("client_ca"));
    assert!(with("", &format!("{own}client_ca = \"ca\"")).is_ok());
    assert!(parse(&format!("listen = \"[::1]:1\"\n{vnc}")).is_ok());
    assert!(
        parse(&format!(
            "listen = \"127.0.0.1:1\"\nlegacy_listen = \"127.0.0.1:1\"\n{vnc}"
        ))
        .is_err()
    );
    let unset = with("token_env = \"CONTRAIL_MESOS_NO_SUCH\"", "").unwrap_err();
    assert!(
        unset.len() == 1 && unset[0].contains("is not set"),
        "{unset:?}"
    );
    let both = with(&format!("{file}\ntoken_env = \"PATH\""), "").unwrap_err();
    assert!(both[0].contains("write one"), "{both:?}");
}

#[test]
fn missing_file_error_names_the_config_option() {
    let error = Config::load(Path::new("/nowhere/manager.toml")).unwrap_err();
    assert!(error.to_string().contains("--config"), "{error}");
}

#[test]
fn zookeeper_table_is_validated() {
    let with = |listen: &str, text: &str| {
        let text = format!(
            "listen = \"{listen}\"\ntoken_env = \"PATH\"\n[zookeeper]\n{text}\n[vnc]\nservers = [\"a\"]\n"
        );
        // PATH holds no valid token, which another test covers.
        let problems = parse(&text).err().unwrap_or_default();
        let problems = problems.into_iter();
        problems
            .filter(|problem| !problem.contains("token"))
            .collect::<Vec<_>>()
    };
    let servers = "servers = \"zk://z1:2181,z2:2181/contrail-mesos\"";
    let none: [&str; 0] = [];
    assert_eq!(with("10.0.0.1:1", servers), none);
    let everywhere = with("0.0.0.0:1", servers);
    assert!(
        everywhere[0].contains("advertise is missing"),
        "{everywhere:?}"
    );
    let named = format!("{servers}\nadvertise = \"https://master-1\"");
    assert_eq!(with("0.0.0.0:1", &named), none);
    for (text, expected) in [
        ("", "servers: is missing"),
        ("servers = \"z1:2181\"", "servers: expected"),
        ("servers = \"zk://z1:2181\"", "servers: expected"),
        (
            "servers = \"zk://u:hidden@z1:2181/p\"",
            "has a password in it",
        ),
        ("session_timeout = \"1h\"", "session_timeout: expected"),
        ("user = \"u\"", "go together"),
        ("password_env = \"PATH\"", "go together"),
        ("advertise = \"http://u:p@m\"", "advertise: expected"),
    ] {
        let text = match text.contains("servers") {
            true => text.to_owned(),
            false if text.is_empty() => text.to_owned(),
            false => format!("{servers}\n{text}"),
        };
        let problems = with("127.0.0.1:1", &text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].contains(expected), "{text}: {problems:?}");
        assert!(!problems[0].contains("hidden"), "{problems:?}");
    }
}

#[test]
fn manager_needs_the_vnc_api_or_overlays() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("overlays.json");
    std::fs::write(
        &file,
        "{\"vtep_subnet\": \"44.128.0.0/16\", \"vtep_mac_oui\": \"70:B3:D5:00:00:00\", \
        \"overlays\": [{\"name\": \"a\", \"subnet\": \"9.0.0.0/8\", \"prefix\": 24}]}",
    )
    .unwrap();
    let overlay = format!("[overlay]\nfile = {file:?}\n");
    for text in ["", "listen = \"127.0.0.1:0\""] {
        let problems = parse(text).unwrap_err();
        assert!(
            problems.len() == 1
                && problems[0].contains("vnc: is missing")
                && problems[0].contains("[overlay]"),
            "{problems:?}"
        );
    }
    // A misspelt table is reported as such.
    let problems = parse("[vcn]\nservers = [\"a\"]").unwrap_err();
    assert!(
        problems
            .iter()
            .all(|problem| !problem.contains("is missing")),
        "{problems:?}"
    );

    let config = parse(&overlay).unwrap();
    assert!(config.vnc.is_none() && config.overlay.is_some());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    for (text, key) in [
        (
            format!("legacy_listen = \"127.0.0.1:1\"\n{overlay}"),
            "legacy_listen",
        ),
        (
            format!("{overlay}[provision]\npod_task_subnets = [\"10.32.0.0/12\"]"),
            "provision",
        ),
    ] {
        let problems = parse(&text).unwrap_err();
        let expected = format!("{key}: needs a table [vnc]");
        assert!(
            problems.len() == 1 && problems[0].contains(&expected),
            "{problems:?}"
        );
    }
    let text = format!("project = \"p\"\n{overlay}[mesos]\nmasters = \"a:1\"");
    let warnings = parse(&text).unwrap().warnings;
    let keys: Vec<_> = warnings
        .iter()
        .map(|warning| warning.key.as_str())
        .collect();
    assert_eq!(keys, ["project", "mesos"], "{warnings:?}");
}

#[test]
fn page_about_the_file_says_what_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let text = example_with_files(directory.path());
    let (before, rest) = text.split_once("[vnc.keystone]").unwrap();
    let (keystone, rest) = rest.split_once("[vnc.basic]").unwrap();
    let (_, after) = rest.split_once("\n[provision]").unwrap();
    let password = directory.path().join("mesos.password");
    let basic = format!("[vnc.basic]\nuser = \"a\"\npassword_file = {password:?}\n");
    let rest = format!("\n[provision]{after}");
    // Read at run time: a changed page needs no build.
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let reference = Reference {
        page: &page,
        part: "manager.toml",
        probes: &[
            format!("{before}[vnc.keystone]{keystone}{rest}"),
            format!("{before}{basic}{rest}"),
        ],
        same: &[
            ("mesos.basic", "vnc.basic"),
            ("marathon.basic", "vnc.basic"),
        ],
        // The file of the overlays.
        free: &[
            "vtep_subnet",
            "vtep_subnet6",
            "vtep_mac_oui",
            "vtep_mtu",
            "vxlan_port",
            "block_rest",
            "overlays",
        ],
    };
    let problems = reference.problems(|text| match Config::parse(Path::new("m.toml"), text) {
        // Warnings have the lines of the file.
        Ok(config) => Ok(format!(
            "{:?}",
            Config {
                warnings: vec![],
                ..config
            }
        )),
        Err(error) => Err(error.to_string()),
    });
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn page_about_the_overlays_file_says_what_is_read() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/overlay.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let top = "vtep_subnet = '44.128.0.0/16'\nvtep_mac_oui = '70:B3:D5:00:00:00'\n";
    let overlays = [
        "name = 'a'\nsubnet = '9.0.0.0/8'\nprefix = 24\ngroups = true",
        "name = 'a'\nsubnet = '9.0.0.0/8'\nipam = 'cluster'",
    ];
    let reference = Reference {
        page: &page,
        part: "Configuration file",
        probes: &overlays.map(|overlay| format!("{top}[[overlays]]\n{overlay}\n")),
        same: &[],
        free: &[],
    };
    let problems = reference.problems(|text| {
        let table: toml::Table = text.parse().expect("TOML");
        let json = serde_json::to_string(&table).expect("JSON");
        match crate::overlay::OverlayConfig::parse(Path::new("overlay.json"), &json) {
            Ok(config) => Ok(format!("{config:?}")),
            Err(error) => Err(error.to_string()),
        }
    });
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
