//! The example files at the top of the tree are right: operators start from them.

use std::path::{Path, PathBuf};

use contrail_mesos::config::{
    Config, DEFAULT_PATH, Deadlines, Network, NetworkProvider, Source, Subnet,
};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn load(path: &Path) -> Config {
    Source::file(path)
        .load()
        .unwrap_or_else(|error| panic!("{error}"))
}

fn bridge<'a>(config: &'a Config, name: &str) -> (&'a Network, &'a Subnet<ipnet::Ipv4Net>) {
    let network = config.network(name).expect("the network");
    let NetworkProvider::Bridge(bridge) = &network.provider else {
        panic!("{network:?}")
    };
    (network, bridge.v4.as_ref().expect("an IPv4 subnet"))
}

#[test]
fn agent_example_is_valid_and_shows_the_defaults() {
    let directory = tempfile::tempdir().expect("a directory");
    let empty = directory.path().join("empty.toml");
    std::fs::write(&empty, "[cni]\n").expect("a file");
    let defaults = load(&empty);

    let config = load(&example("agent.toml.example"));
    assert_eq!(config.state_dir, defaults.state_dir);
    assert_eq!(config.netns_dir, defaults.netns_dir);
    assert_eq!(config.deadlines, Deadlines::default());
    assert!(config.dns.is_some());
    assert_eq!(config.cni, defaults.cni);

    let (blue, _) = bridge(&config, "blue");
    let (_, red) = bridge(&config, "red");
    assert!(blue.dns.is_some());
    assert_eq!(red.gateway.to_string(), "10.33.0.1");

    // What the example gives as default is.
    let minimal = directory.path().join("minimal.toml");
    std::fs::write(&minimal, "[contrail]\nmanagers = ['192.0.2.1']").expect("a file");
    let default = load(&minimal).contrail.expect("contrail");
    let contrail = config.contrail.as_ref().expect("contrail");
    assert_eq!(contrail.vrouter_host, default.vrouter_host);
    assert_eq!(contrail.vrouter_port, default.vrouter_port);
    assert_eq!(contrail.port_directory, default.port_directory);
    assert_eq!(contrail.deadline, default.deadline);
    assert_eq!(contrail.vif, default.vif);
    assert_eq!(contrail.sync_ports, default.sync_ports);
    assert_eq!(contrail.managers.len(), 2);
    assert!(config.network("contrail-cni-plugin").is_some());
}

#[test]
fn modules_example_names_the_modules_and_default_path() {
    let text = std::fs::read_to_string(example("modules.json.example")).expect("the example");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let modules = json["libraries"][0]["modules"].as_array().expect("modules");
    let names: Vec<_> = modules.iter().map(|module| &module["name"]).collect();
    assert_eq!(names, ["network/contrail", "org_contrail_mesos_Hook"]);
    let parameter = &modules[0]["parameters"][0];
    assert_eq!(parameter["key"], "config");
    assert_eq!(parameter["value"], DEFAULT_PATH);
}
