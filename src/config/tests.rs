use super::*;

fn parse(toml: &str) -> Result<Config, ConfigError> {
    Source::file("/etc/agent.toml").parse(toml)
}

fn problems(toml: &str) -> Vec<String> {
    match parse(toml) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn minimal_bridge_network_gets_defaults() {
    let config = parse("[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.32.0.5/24'")
        .expect("a minimal network");
    let network = config.network("blue").expect("blue");
    let NetworkProvider::Bridge(bridge) = &network.provider else {
        panic!("{network:?}")
    };
    let v4 = bridge.v4.as_ref().expect("v4");
    assert_eq!(v4.subnet.to_string(), "10.32.0.0/24");
    assert_eq!(v4.gateway.to_string(), "10.32.0.1");
    assert_eq!(v4.first.to_string(), "10.32.0.1");
    assert_eq!(v4.last.to_string(), "10.32.0.254");
    assert_eq!(bridge.bridge.len(), 15);
    assert_eq!(bridge.routes.len(), 1);
    assert!(bridge.masquerade && bridge.hairpin);
    assert_eq!(config.deadlines, Deadlines::default());
}

#[test]
fn all_problems_are_reported_with_their_lines() {
    let problems = problems(
        "state_dir = 'relative'
colour = 'blue'
[deadlines]
prepare = '10 parsecs'
[[network]]
name = 'a/b'
provider = 'bridge'
subnet = '10.0.0.0/31'
[[network]]
name = 'blue'
provider = 'bridge'
subnet = '10.32.0.0/16'
gateway = '10.33.0.1'
mtu = 12
subnett = 'x'
[[network]]
name = 'blue'
provider = 'bridge'
subnet = '10.32.5.0/24'
[[network]]
name = 'red'
provider = 'carrier-pigeon'
",
    );
    for expected in [
        "/etc/agent.toml:1: state_dir: \"relative\" must be an absolute path",
        "/etc/agent.toml:2: colour: unknown key; known here:",
        "/etc/agent.toml:4: deadlines.prepare: expected a duration such as",
        "/etc/agent.toml:6: network[0].name: \"a/b\" is not a network name",
        "/etc/agent.toml:8: network[0].subnet: 10.0.0.0/31 has no room",
        "/etc/agent.toml:13: network[1].gateway: 10.33.0.1 is not between",
        "/etc/agent.toml:14: network[1].mtu: expected a number from 576 to 65535",
        "/etc/agent.toml:15: network[1].subnett: unknown key",
        "network[2].name: network \"blue\" is defined twice",
        "network[2].subnet: 10.32.5.0/24 overlaps 10.32.0.0/16",
        "/etc/agent.toml:22: network[3].provider: there is no provider \"carrier-pigeon\"",
    ] {
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{expected:?} is not among {problems:#?}"
        );
    }
}

#[test]
fn syntax_error_is_reported_with_its_line() {
    let problems = problems("state_dir = '/x'\n= 3\n");
    assert!(
        problems[0].starts_with("/etc/agent.toml:2: "),
        "{problems:?}"
    );
}

#[test]
fn resolver_word_with_newline_is_refused() {
    let problems = problems("[dns]\nsearch = [\"a\\nnameserver 1.2.3.4\"]\ndomain = \"a b\"");
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("is not one word"), "{problems:?}");
}

#[test]
fn module_parameters_override_file_and_are_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, "state_dir = '/a'\n").expect("a file");
    let parameter = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let config = parameter("config", &path.display().to_string());
    let source = Source::from_parameters(&[
        config.clone(),
        parameter("state_dir", "/b"),
        parameter("deadlines.isolate", "5s"),
    ])
    .expect("good parameters");
    let loaded = source.load().expect("good configuration");
    assert_eq!(loaded.state_dir, Path::new("/b"));
    assert_eq!(loaded.deadlines.isolate, Duration::from_secs(5));

    let error = Source::from_parameters(&[
        config,
        parameter("statedir", "/b"),
        parameter("netns_dir", "b"),
        parameter("deadlines.recover", "soon"),
    ])
    .expect_err("bad parameters");
    let message = error.to_string();
    for expected in [
        "module parameter \"statedir\": is unknown",
        "module parameter \"netns_dir\": netns_dir: \"b\" must be an absolute path",
        "module parameter \"deadlines.recover\": deadlines.recover: expected a duration",
    ] {
        assert!(
            message.contains(expected),
            "{expected:?} is not in {message}"
        );
    }
}

#[test]
fn missing_file_error_names_the_module_parameter() {
    let error = Source::file("/nonexistent/agent.toml")
        .load()
        .expect_err("no file");
    assert!(
        error.to_string().contains("cannot read the configuration"),
        "{error}"
    );
}

#[test]
fn minimal_contrail_configuration_gets_defaults() {
    let config = parse(
        "[contrail]\nmanagers = ['192.0.2.1', 'https://master-2.example:7000']\n\
         [[network]]\nname = 'contrail-cni-plugin'\nprovider = 'contrail'",
    )
    .expect("a minimal configuration");
    let contrail = config.contrail.as_ref().expect("contrail");
    let managers: Vec<String> = contrail.managers.iter().map(ToString::to_string).collect();
    assert_eq!(
        managers,
        ["http://192.0.2.1:6992", "https://master-2.example:7000"]
    );
    assert!(!contrail.agent.is_empty());
    assert_eq!(
        (contrail.vrouter_host.as_str(), contrail.vrouter_port),
        ("127.0.0.1", 9091)
    );
    assert_eq!(contrail.vif, Vif::Veth);
    assert!(!contrail.sync_ports);
    let network = config.network("contrail-cni-plugin").expect("the network");
    let expected = ContrailNetwork {
        virtual_network: None,
        mtu: 1500,
    };
    assert_eq!(network.provider, NetworkProvider::Contrail(expected));
    assert!(network.subnets().is_empty());
}

#[test]
fn vrouter_address_is_parsed_in_every_form() {
    for (address, host, port) in [
        ("10.84.22.27", "10.84.22.27", 9091),
        ("10.84.22.27:9092", "10.84.22.27", 9092),
        ("node-1.example", "node-1.example", 9091),
        ("2001:db8::1", "2001:db8::1", 9091),
        ("[2001:db8::1]:9092", "2001:db8::1", 9092),
    ] {
        let config = parse(&format!(
            "[contrail]\nmanagers = ['a']\nvrouter = '{address}'"
        ));
        let contrail = config.expect("an address").contrail.expect("contrail");
        assert_eq!(
            (contrail.vrouter_host.as_str(), contrail.vrouter_port),
            (host, port)
        );
    }
}

#[test]
fn all_problems_of_contrail_are_reported() {
    let problems = problems(
        "[contrail]\nagent = 'node 1'\nvrouter = 'a b'\nport_directory = 'ports'\n\
         vif = 'tun'\nkey_file = '/k'\n\
         [[network]]\nname = 'c'\nprovider = 'contrail'\nvirtual_network = 'a:b'\nsubnet = '10.0.0.0/8'",
    );
    for (key, expected) in [
        ("contrail.managers", "needs a manager"),
        ("contrail.agent", "not a virtual-router's name"),
        ("contrail.vrouter", "vRouter agent's address"),
        ("contrail.port_directory", "absolute path"),
        ("contrail.vif", "macvlan"),
        ("contrail.certificate_file", "belong together"),
        ("network[0].virtual_network", "domain:project:network"),
        ("network[0].subnet", "unknown key"),
    ] {
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains(key) && problem.contains(expected)),
            "{key}: {problems:#?}"
        );
    }
    assert_eq!(problems.len(), 8, "{problems:#?}");
}

#[test]
fn contrail_network_without_contrail_table_is_refused() {
    let problems = problems("[[network]]\nname = 'c'\nprovider = 'contrail'");
    assert!(
        problems[0].contains("needs a table [contrail]"),
        "{problems:?}"
    );
}

#[test]
fn allowed_ports_are_ports_ranges_or_any() {
    let allowed = |list: &str| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, format!("[ports]\nallow = {list}\n")).unwrap();
        Source::file(path).load().map(|config| config.allowed_ports)
    };
    let some = allowed(r#"["80", "8000-8999"]"#).unwrap();
    for (port, is_allowed) in [
        (80, true),
        (81, false),
        (8000, true),
        (8999, true),
        (9000, false),
    ] {
        assert_eq!(some.contains(port), is_allowed, "{port}");
    }
    assert!(!AllowedPorts::default().contains(80));
    assert!(allowed(r#"["any"]"#).unwrap().contains(65535));
    for wrong in [
        r#"["0"]"#,
        r#"["9-8"]"#,
        r#"["http"]"#,
        r#"["70000"]"#,
        r#""80""#,
        "[80]",
    ] {
        let error = allowed(wrong).unwrap_err();
        assert!(
            error.to_string().contains("ports.allow"),
            "{wrong}: {error}"
        );
    }
}
