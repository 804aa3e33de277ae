use contrail_mesos_api::cluster::Admission;
use contrail_mesos_api::config_reader::MAX_PROBLEMS;
use contrail_mesos_api::config_reader::reference::Reference;
use contrail_mesos_api::parser_testing::{assert_linear, for_damaged_input};

use super::*;

fn parse(toml: &str) -> Result<Config, ConfigError> {
    Source::file("/etc/agent.toml").parse(toml).config
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
fn groups_are_isolated_and_admit_hosts_and_mapped_ports_by_default() {
    let network = |keys: &str| {
        format!("[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.1.0.0/24'\n{keys}")
    };
    let admission = |hosts, mapped_ports| Admission {
        hosts,
        mapped_ports,
    };
    for (keys, expected) in [
        ("", None),
        ("groups = false", None),
        ("groups = true", Some(admission(true, true))),
        ("groups = true\nadmit = []", Some(admission(false, false))),
        (
            "groups = true\nadmit = ['mapped-ports']",
            Some(admission(false, true)),
        ),
        (
            "groups = true\nadmit = ['hosts', 'hosts']",
            Some(admission(true, false)),
        ),
    ] {
        let config = parse(&network(keys)).expect(keys);
        let NetworkProvider::Bridge(bridge) = &config.networks[0].provider else {
            panic!("{config:?}")
        };
        assert_eq!(bridge.groups, expected, "{keys}");
    }
    for (keys, expected) in [
        ("groups = 'yes'", "5:10: network[0].groups"),
        ("groups = true\nadmit = ['host']", "6:10: network[0].admit"),
        (
            "groups = true\nadmit = ['mapped-prots']",
            "did you mean \"mapped-ports\"?",
        ),
        ("groups = true\nadmit = 'hosts'", "6:9: network[0].admit"),
        ("admit = ['hosts']", "5:9: network[0].admit"),
        (
            "groups = false\nadmit = []",
            "6:9: network[0].admit: has a meaning only",
        ),
    ] {
        let problems = problems(&network(keys));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(expected), "{keys}: {problems:?}");
    }
}

#[test]
fn overlay_network_needs_only_its_name() {
    let config = parse(
        "[[network]]\nname = 'vxlan-1'\nprovider = 'overlay'\n\
         [[network]]\nname = 'a network with a long name'\nprovider = 'overlay'\noverlay = 'v.2_b'\n\
         masquerade = false\nhairpin = false\nroutes = ['9.0.0.0/8', 'fd09::/16']\n\
         [network.dns]\nnameservers = ['9.0.0.1']"
            .replace("a network with a long name", "a-network-with-a-long-name")
            .as_str(),
    )
    .expect("two overlays");
    let provider = |name: &str| &config.network(name).expect("the network").provider;
    let NetworkProvider::Overlay(first) = provider("vxlan-1") else {
        panic!("{config:?}")
    };
    assert_eq!(
        (first.overlay.as_str(), first.bridge().as_str()),
        ("vxlan-1", "m-vxlan-1")
    );
    assert!(first.masquerade && first.hairpin && first.routes.is_none());
    let NetworkProvider::Overlay(second) = provider("a-network-with-a-long-name") else {
        panic!("{config:?}")
    };
    assert_eq!(second.bridge(), "m-v.2_b");
    assert!(!second.masquerade && !second.hairpin);
    assert_eq!(second.routes.as_ref().map(Vec::len), Some(2));
    assert!(config.uses_host_resolver());
}

#[test]
fn mistakes_of_overlay_networks_are_reported_with_their_keys() {
    let overlay = |keys: &str| format!("[[network]]\nprovider = 'overlay'\n{keys}\n");
    for (toml, expected) in [
        (
            overlay("name = 'fourteen-chars'"),
            "network[0].overlay: no overlay can have the network's name",
        ),
        (
            overlay("name = 'a:b'"),
            "network[0].overlay: no overlay can have the network's name",
        ),
        (
            overlay("name = 'blue'\noverlay = 'fourteen-chars'"),
            "network[0].overlay: expected the name of an overlay",
        ),
        (
            overlay("name = 'blue'\noverlay = '-a'"),
            "network[0].overlay: expected the name of an overlay",
        ),
        (
            overlay("name = 'blue'\nsubnet = '10.0.0.0/8'"),
            "network[0].subnet: unknown key",
        ),
        (
            overlay("name = 'blue'\nmtu = 1400"),
            "network[0].mtu: unknown key",
        ),
        (
            overlay("name = 'blue'\nroutes = ['default']"),
            "network[0].routes: expected a destination",
        ),
        (
            overlay("name = 'blue'") + &overlay("name = 'red'\noverlay = 'blue'"),
            "network[1].overlay: network \"blue\" already uses \"m-blue\"",
        ),
        (
            overlay("name = 'blue'")
                + "[[network]]\nname = 'red'\nprovider = 'bridge'\nbridge = 'm-blue'\nsubnet = '10.0.0.0/8'",
            "network[1].bridge: network \"blue\" already uses \"m-blue\"",
        ),
        (
            overlay("name = 'blue'") + &overlay("name = 'blue'"),
            "network[1].name: network \"blue\" is defined twice",
        ),
        (overlay(""), "network[0].name: a network needs a name"),
    ] {
        let problems = problems(&toml);
        assert_eq!(problems.len(), 1, "{toml}: {problems:?}");
        assert!(problems[0].contains(expected), "{toml}: {problems:?}");
    }
}

#[test]
fn every_mistake_is_one_problem_in_the_order_of_the_file() {
    let problems = problems(include_str!("testdata/mistakes.toml"));
    let expected = [
        "2:1: state-dir: unknown key; did you mean \"state_dir\"?",
        "3:13: netns_dir: \"relative/dir\" must be an absolute path",
        "5:2: deadline: unknown key; did you mean \"deadlines\"?",
        "9:11: deadlines.prepare: expected a duration such as",
        "10:11: deadlines.isolate: expected a duration such as \"30s\", \"500ms\" or \"2m\", found 30",
        "11:11: deadlines.cleanup: expected a duration such as",
        "12:11: deadlines.recover: expected a duration such as",
        "15:1: dns.nameserver: unknown key; did you mean \"nameservers\"?",
        "16:16: dns.nameservers: expected an address such as \"10.0.0.2\", found \"192.0.2.053\"",
        "16:31: dns.nameservers: expected an address such as \"10.0.0.2\", found \"dns.example.com\"",
        "17:10: dns.search: expected an array, each entry a domain such as \"example.com\", found \"example.com\"",
        "18:12: dns.options: expected an option such as \"ndots:2\", found \"ndots=2\": write \"ndots:2\"",
        "18:23: dns.options: expected an option such as \"ndots:2\", found \"two words\"",
        "20:3: networks: unknown key; did you mean \"network\"?",
        "23:2: contrial: unknown key; did you mean \"contrail\"?",
        "27:8: network[0].name: expected the name that frameworks use, such as \"blue\", found \"blue net\"",
        "28:12: network[0].provider: expected the provider, \"bridge\", \"overlay\", \"contrail\" or \"none\" (CNI networks are files in the directory of [cni]), found \"brige\": did you mean \"bridge\"?",
        "35:11: network[1].gateway: expected an IPv4 address, found \"10.33.0.1\": 10.33.0.1 is not between 10.32.0.1 and 10.32.255.254 of 10.32.0.0/16",
        "36:9: network[1].range: expected two IPv4 addresses, first-last, found \"10.32.1.0/24\": write \"10.32.1.1-10.32.1.254\"",
        "37:12: network[1].reserved: expected an array",
        "38:11: network[1].subnet6: expected an IPv6 subnet",
        "39:7: network[1].mtu: expected a number from 1280 to 65535, found 100",
        "40:14: network[1].masquerade: expected true or false, without quotes, found \"yes\"",
        "41:11: network[1].hairpin: expected true or false, without quotes, found 1",
        "42:10: network[1].bridge: expected an interface name such as \"mesos0\", found",
        "43:11: network[1].routes: expected a destination such as \"0.0.0.0/0\", found \"default\"",
        "46:8: network[2].name: network \"blue\" is defined twice, see network[1]",
        "48:10: network[2].subnet: 10.32.0.0/24 overlaps 10.32.0.0/16 of network \"blue\"",
        "50:1: network[3].subnet: a bridge network needs a subnet",
        "54:1: network[4].name: a network needs a name",
        "58:1: network[5].provider: a network needs a provider",
        "61:1: network[5].gatway: unknown key; did you mean \"gateway\"?",
        "67:11: network[6].gateway: expected an IPv4 address, found \"10.52.0.0\": 10.52.0.0 is not between",
        "68:9: network[6].range: expected two IPv4 addresses, first-last, found \"10.52.0.50-10.52.0.10\": last is before first",
        "69:26: network[6].reserved: expected an IPv4 address, or two as first-last, found \"10.99.0.1\": 10.99.0.1 is not between",
        "74:10: network[7].subnet: expected an IPv4 subnet such as \"10.32.0.0/16\", found \"10.53.0.0/31\": it has no room",
        "79:10: network[8].subnet: expected an IPv4 subnet such as \"10.32.0.0/16\", found \"127.0.0.0/8\": it overlaps 127.0.0.0/8 (the loopback addresses)",
        "83:10: network[9].subnet: expected an IPv4 subnet such as \"10.32.0.0/16\", found \"224.0.0.0/24\": it overlaps 224.0.0.0/4 (the multicast addresses)",
        "87:10: network[10].subnet: expected an IPv4 subnet such as \"10.32.0.0/16\", found \"0.0.0.0/0\": it overlaps 0.0.0.0/8",
        "95:11: network[12].subnet6: expected an IPv6 subnet such as \"fd00:32::/64\", found \"fe80::/64\": it overlaps fe80::/10 (the link-local addresses)",
        "100:11: network[13].subnet6: expected an IPv6 subnet such as \"fd00:32::/64\", found \"fd00::/128\": it has no room",
        "101:10: network[13].bridge: network \"link-local\" already uses \"shared\"",
        "106:10: network[14].bridge: expected an interface name such as \"mesos0\", found \"lo\": the kernel uses this name",
        "110:19: network[15].virtual_network: expected a virtual network",
        "111:1: network[15].subnet: unknown key; known here:",
    ];
    for (problem, expected) in problems.iter().zip(expected) {
        let expected = format!("/etc/agent.toml:{expected}");
        assert!(
            problem.starts_with(&expected),
            "{expected}\nis not the start of\n{problem}"
        );
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn unusual_values_are_warnings_with_their_places() {
    let read = Source::file("/etc/agent.toml").parse(
        "state_dir = '/tmp/x'
[[network]]
name = 'documentation'
provider = 'bridge'
subnet = '198.51.100.0/24'
[[network]]
name = 'bits'
provider = 'bridge'
subnet = '10.32.0.5/16'
[[network]]
name = 'reserved'
provider = 'bridge'
subnet = '10.33.0.0/24'
reserved = ['10.33.0.100-10.33.0.254', '10.33.0.1-10.33.0.99']
[[network]]
name = 'gateway'
provider = 'bridge'
subnet6 = 'fd00::/64'
range6 = 'fd00::1-fd00::1'
[[network]]
name = 'class-e'
provider = 'bridge'
subnet = '240.0.0.0/16'
",
    );
    assert!(read.config.is_ok(), "{read:?}");
    let warnings: Vec<_> = read.warnings.iter().map(ToString::to_string).collect();
    for (warning, expected) in warnings.iter().zip([
        "1:13: state_dir: \"/tmp/x\" may be empty after a reboot",
        "5:10: network[0].subnet: 198.51.100.0/24 overlaps 198.51.100.0/24 (addresses for documentation)",
        "9:10: network[1].subnet: 10.32.0.5/16 has bits beyond its prefix; it means 10.32.0.0/16",
        "14:12: network[2].reserved: no address is left for containers that request none",
        "19:10: network[3].range6: no address is left",
        "23:10: network[4].subnet: 240.0.0.0/16 overlaps 240.0.0.0/4 (reserved addresses",
    ]) {
        let expected = format!("/etc/agent.toml:{expected}");
        assert!(warning.starts_with(&expected), "{expected}: {warning}");
    }
    assert_eq!(warnings.len(), 6, "{warnings:#?}");
}

#[test]
fn free_addresses_are_no_warning() {
    for network in [
        "subnet = '10.33.0.0/30'",
        "subnet = '10.33.0.0/24'\nreserved = ['10.33.0.2-10.33.0.99', '10.33.0.101-10.33.0.254']",
        "subnet = '10.33.0.0/24'\nrange = '10.33.0.1-10.33.0.2'",
        "subnet6 = 'fd00::/64'\nreserved6 = ['fd00::1000-fd00::ffff:ffff:ffff:ffff']",
    ] {
        let read = Source::file("/etc/agent.toml").parse(&format!(
            "[[network]]\nname = 'blue'\nprovider = 'bridge'\n{network}\n"
        ));
        assert!(read.config.is_ok(), "{read:?}");
        assert_eq!(read.warnings, [], "{network}");
    }
}

#[test]
fn directory_without_files_is_refused() {
    for directory in [
        "/proc/x",
        "/sys",
        "/dev/shm/x",
        "/",
        "/var/../proc/1",
        "x",
        "",
        "/a\\u0000",
    ] {
        let problems = problems(&format!("state_dir = \"{directory}\""));
        assert_eq!(problems.len(), 1, "{directory}: {problems:?}");
        assert!(problems[0].starts_with("/etc/agent.toml:1:13: state_dir: "));
    }
}

#[test]
fn special_subnets_are_refused() {
    for subnet in [
        "subnet = '0.0.0.0/0'",
        "subnet = '0.0.0.0/1'",
        "subnet = '0.1.0.0/16'",
        "subnet = '127.1.0.0/16'",
        "subnet = '126.0.0.0/7'",
        "subnet = '169.254.0.0/16'",
        "subnet = '239.0.0.0/8'",
        "subnet = '255.255.255.0/24'",
        "subnet6 = '::/0'",
        "subnet6 = '::/64'",
        "subnet6 = 'fe80::/10'",
        "subnet6 = 'febf::/64'",
        "subnet6 = 'ff02::/64'",
        "subnet6 = '::ffff:0:0/100'",
    ] {
        let problems = problems(&format!(
            "[[network]]\nname = 'blue'\nprovider = 'bridge'\n{subnet}\n"
        ));
        assert_eq!(problems.len(), 1, "{subnet}: {problems:?}");
        assert!(problems[0].contains("it overlaps"), "{problems:?}");
    }
}

#[test]
fn syntax_error_is_the_only_problem() {
    let problems = problems("state_dir = '/x'\n= 3\ncolour = 1\n[[network]]\nname = 1\n");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("/etc/agent.toml:2:1: "),
        "{problems:?}"
    );
}

#[test]
fn password_of_a_manager_is_not_shown() {
    for managers in [
        "['https://u:SecretPw1@master-1:6992']",
        "['u:SecretPw1@master-1']",
        "'https://u:SecretPw1@master-1'",
        "['https://u:Sec/retPw1 SecretPw1@master-1']",
    ] {
        for key in [
            "managers",
            "agent",
            "vrouter",
            "virtual_router_address",
            "vif",
            "deadline",
        ] {
            let text = problems(&format!("[contrail]\n{key} = {managers}")).concat();
            assert!(!text.contains("SecretPw1"), "{text}");
            assert!(!text.contains("Sec/ret"), "{text}");
        }
    }
}

#[test]
fn directories_are_known_beside_other_mistakes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.toml");
    let state_dir = |toml: &str| {
        std::fs::write(&path, toml).expect("a file");
        let (config, error) = Source::file(&path).load_directories().ok()?;
        assert!(error.is_some(), "{toml}");
        assert_eq!(config.networks, []);
        Some(config.state_dir)
    };
    let a = Some(PathBuf::from("/a"));
    assert_eq!(state_dir("state_dir = '/a'\ncolour = 1"), a);
    assert_eq!(state_dir("state_dir = '/a'\n[[network]]\n= 1"), a);
    assert_eq!(state_dir("state_dir = /a"), a);
    assert_eq!(state_dir("colour = 1"), Some(DEFAULT_STATE_DIR.into()));
    // The file means another directory, which is not understood.
    assert_eq!(state_dir("state-dir = '/a'"), None);
    assert_eq!(state_dir("state_dir = 'a'"), None);
    assert_eq!(state_dir("[deadlines]\nstate_dir = '/a'"), None);
    std::fs::remove_file(&path).expect("the file");
    let (config, error) = Source::file(&path).load_directories().expect("defaults");
    assert_eq!(config.state_dir, Path::new(DEFAULT_STATE_DIR));
    assert!(error.is_some());
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
        "module parameter \"statedir\": is unknown; did you mean \"state_dir\"?",
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
        ("contrail.agent", "the name of this host's virtual-router"),
        ("contrail.vrouter", "vRouter agent's address"),
        ("contrail.port_directory", "absolute path"),
        ("contrail.vif", "macvlan"),
        ("contrail.certificate_file", "belong together"),
        ("network[0].virtual_network", "or a plain name"),
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

#[test]
fn damaged_input_never_panics() {
    for valid in [
        include_str!("../../agent.toml.example"),
        include_str!("testdata/mistakes.toml"),
        "[[network]]\nname = 'a'\nprovider = 'bridge'\nsubnet6 = 'fd00::/64'\n\
         groups = true\nadmit = ['hosts', 'mapped-ports']",
    ] {
        for_damaged_input(valid.as_bytes(), |input| {
            let text = String::from_utf8_lossy(input);
            // The plugins of this host do not matter.
            let text = text.replace("[cni]", "[dns]");
            if let Err(error) = parse(&text) {
                assert!(error.problems.len() <= MAX_PROBLEMS);
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
        });
    }
}

#[test]
fn reading_is_linear_in_the_number_of_networks() {
    for (name, network) in [
        (
            "distinct",
            "name = 'nNUMBER'\nsubnet6 = 'fd00:0:NUMBER::/64'",
        ),
        ("equal", "name = 'n'\nsubnet = '10.0.0.0/24'\nbridge = 'b'"),
        (
            "unknown keys",
            "name = 'nNUMBER'\nsubnett = '10.0.0.0/24'\nmtuu = 1",
        ),
    ] {
        assert_linear(name, 250, |networks| {
            let text: Vec<String> = (0..networks)
                .map(|number| {
                    let network = network.replace("NUMBER", &number.to_string());
                    format!("[[network]]\nprovider = 'bridge'\n{network}\n")
                })
                .collect();
            let text = text.concat();
            assert_eq!(parse(&text).is_ok(), name == "distinct");
        });
    }
}

#[test]
fn node_table_has_defaults_and_is_checked() {
    let default = parse("state_dir = '/data'").expect("a configuration").node;
    assert_eq!(default.socket, Path::new("/data/node/api.sock"));
    assert_eq!(default.managers, []);
    assert_eq!(default.docker, None);
    let node = parse(
        "[node]
managers = ['https://master-1.example']
name = 'agent-1.example'
address = '2001:db8::1'
listen = '[::1]:6994'
docker = '/var/run/docker.sock'
report_interval = '1m'",
    )
    .expect("a table")
    .node;
    assert_eq!(
        node.managers[0].to_string(),
        "https://master-1.example:6992"
    );
    assert_eq!(node.name, "agent-1.example");
    assert_eq!(node.report_interval, Duration::from_mins(1));
    let docker = Path::new("/var/run/docker.sock");
    assert_eq!(node.docker.as_deref(), Some(docker));
    let problems = problems(
        "[node]
managers = ['ftp://x']
name = 'a b'
address = '127.0.0.1'
socket = 'api.sock'
listen = '6994'
allowed_hosts = ['']
certificate_file = '/c'
interval = '1s'
docker = 'unix:///var/run/docker.sock'",
    );
    let keys = [
        "2:13: node.managers",
        "3:8: node.name",
        "4:11: node.address",
        "5:10: node.socket",
        "6:10: node.listen",
        "7:18: node.allowed_hosts",
        "8:20: node.certificate_file",
        "9:1: node.interval",
        "10:10: node.docker",
    ];
    assert_eq!(problems.len(), keys.len(), "{problems:#?}");
    for (problem, key) in problems.iter().zip(keys) {
        assert!(problem.contains(key), "{key} is not in {problem}");
    }
}

#[test]
fn node_names_are_those_that_managers_accept() {
    let longest = "a".repeat(253);
    for name in ["a", "agent-1.example", "A_1", &longest] {
        assert!(is_node_name(name), "{name:?}");
    }
    let too_long = "a".repeat(254);
    for name in ["", "a b", "a/b", "ä", "a\n", &too_long] {
        assert!(!is_node_name(name), "{name:?}");
    }
}

#[test]
fn dns_table_has_defaults_and_is_checked() {
    let default = parse("").expect("a configuration").node.dns;
    assert_eq!(default, DnsServer::default());
    let dns = parse(
        "[node.dns]
enabled = true
listen = ['192.0.2.27', '[2001:db8::27]:5353']
allow = ['10.0.0.0/8']
upstreams = ['192.0.2.53']
[node.dns.forward]
'Corp.Example.' = ['10.0.0.2', '10.0.0.3:5353']",
    )
    .expect("a table")
    .node
    .dns;
    assert_eq!(dns.enabled, Some(true));
    let listen = ["192.0.2.27:53", "[2001:db8::27]:5353"];
    assert_eq!(dns.listen, listen.map(|address| address.parse().unwrap()));
    assert_eq!(dns.allow, ["10.0.0.0/8".parse().unwrap()]);
    let upstreams = ["192.0.2.53:53".parse().unwrap()];
    assert_eq!(dns.upstreams.as_deref(), Some(&upstreams[..]));
    let servers = ["10.0.0.2:53", "10.0.0.3:5353"].map(|server| server.parse().unwrap());
    assert_eq!(dns.forward["corp.example"], servers);
    let problems = problems(
        "[node.dns]
enabled = 1
listen = ['0.0.0.0', 'host']
allow = ['10.0.0.0']
upstreams = []
zones = []
[node.dns.forward]
'web.thisdcos.directory' = ['10.0.0.2']
'a..b' = ['10.0.0.2']
corp = '10.0.0.2'",
    );
    let keys = [
        "2:11: node.dns.enabled",
        "3:11: node.dns.listen",
        "3:22: node.dns.listen",
        "4:10: node.dns.allow",
        "5:13: node.dns.upstreams",
        "6:1: node.dns.zones",
        "8:28: node.dns.forward",
        "9:10: node.dns.forward",
        "10:8: node.dns.forward.corp",
    ];
    assert_eq!(problems.len(), keys.len(), "{problems:#?}");
    for (problem, key) in problems.iter().zip(keys) {
        assert!(problem.contains(key), "{problem} is not about {key}");
    }
}

/// Files that together have every table, and every key that is read only if it is there.
const PROBES: [&str; 2] = [
    "state_dir = '/var/lib/contrail-mesos'
     [deadlines]
     [dns]
     [ports]
     [cni]
     config_dir = '/nowhere'
     [contrail]
     managers = ['192.0.2.1']
     [node]
     [node.dns]
     enabled = true
     [node.dns.forward]
     'corp.example' = ['192.0.2.53']
     [[network]]
     name = 'blue'
     provider = 'bridge'
     subnet = '10.32.0.0/24'
     subnet6 = 'fd00:32::/64'
     groups = true
     [network.dns]
     [[network]]
     name = 'contrail'
     provider = 'contrail'
     [[network]]
     name = 'vxlan-1'
     provider = 'overlay'",
    "[contrail]
     managers = ['192.0.2.1']
     vif = 'macvlan'
     [[network]]
     name = 'red'
     provider = 'bridge'
     subnet = '10.33.0.0/24'
     [[network]]
     name = 'none'
     provider = 'none'",
];

#[test]
fn page_about_the_file_says_what_is_read() {
    // Read at run time: a changed page needs no build.
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let reference = Reference {
        page: &page,
        part: "agent.toml",
        probes: &PROBES.map(ToOwned::to_owned),
        same: &[("network[].dns", "dns")],
        free: &["node.dns.forward"],
    };
    let problems = reference.problems(|text| match parse(text) {
        Ok(config) => Ok(format!("{config:?}")),
        Err(error) => Err(error.to_string()),
    });
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
