use tempfile::TempDir;

use super::*;
use crate::config::{Config, NetworkProvider, Source};

/// A directory of networks, and one with the plugins `bridge`, `portmap` and `host-local`.
struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        for directory in ["net.d", "bin"] {
            fs::create_dir(fixture.path(directory)).unwrap();
        }
        for plugin in ["bridge", "portmap", "host-local"] {
            fixture.install(plugin, 0o755);
        }
        fixture.install("not-executable", 0o644);
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn install(&self, name: &str, mode: u32) {
        let path = self.path("bin").join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write(&self, name: &str, json: &str) {
        fs::write(self.path("net.d").join(name), json).unwrap();
    }

    /// Loads a configuration of these directories and `tables`.
    fn load(&self, tables: &str) -> Config {
        let path = self.path("agent.toml");
        let toml = format!(
            "[cni]\nconfig_dir = '{}'\nplugin_dirs = ['{}']\n{tables}",
            self.path("net.d").display(),
            self.path("bin").display()
        );
        fs::write(&path, toml).unwrap();
        Source::file(path).load().unwrap()
    }
}

fn chain<'a>(config: &'a Config, name: &str) -> Result<&'a Chain, &'a str> {
    let network = config.network(name).expect("the network");
    let NetworkProvider::Cni(network) = &network.provider else {
        panic!("{network:?}")
    };
    network.chain.as_ref().map_err(String::as_str)
}

#[test]
fn conf_json_and_conflist_files_are_networks() {
    let fixture = Fixture::new();
    fixture.write(
        "10-one.conf",
        r#"{"name":"one","cniVersion":"0.2.0","type":"bridge","ipam":{"type":"host-local"}}"#,
    );
    fixture.write("20-two.json", r#"{"name":"two","type":"bridge"}"#);
    fixture.write(
        "30-three.conflist",
        r#"{"name":"three","cniVersion":"1.0.0","plugins":[{"type":"bridge"},
            {"type":"portmap","capabilities":{"portMappings":true},"name":"else"}]}"#,
    );
    fixture.write(".hidden", "{");
    fs::create_dir(fixture.path("net.d").join("directory")).unwrap();
    let config = fixture.load("");
    assert_eq!(config.cni_problems, []);
    let names: Vec<_> = config
        .networks
        .iter()
        .map(|network| network.name.as_str())
        .collect();
    assert_eq!(names, ["one", "two", "three"]);
    let three = chain(&config, "three").unwrap();
    assert_eq!(three.types(), ["bridge", "portmap"]);
    for plugin in &three.plugins {
        assert_eq!(plugin["name"], "three");
        assert_eq!(plugin["cniVersion"], "1.0.0");
    }
    // As in network/cni, the configuration of a single plugin is passed on unchanged.
    let two = &chain(&config, "two").unwrap().plugins[0];
    assert!(!two.contains_key("cniVersion"));
}

#[test]
fn invalid_file_affects_only_its_own_network() {
    let fixture = Fixture::new();
    fixture.write("good", r#"{"name":"good","type":"bridge"}"#);
    for (file, json, expected) in [
        ("a", "{", "is not valid JSON: see line 1"),
        ("b", "[]", "is not a JSON object"),
        ("c", r#"{"type":"bridge"}"#, "has no \"name\""),
        (
            "d",
            r#"{"name":"a/b","type":"bridge"}"#,
            "not a network name",
        ),
        ("e", r#"{"name":"e"}"#, "a plugin has no \"type\""),
        (
            "f",
            r#"{"name":"f","type":"vlan"}"#,
            "there is no plugin \"vlan\"",
        ),
        (
            "g",
            r#"{"name":"g","type":"../bin/bridge"}"#,
            "there is no plugin",
        ),
        (
            "h",
            r#"{"name":"h","type":"not-executable"}"#,
            "there is no plugin",
        ),
        (
            "i",
            r#"{"name":"i","type":"bridge","ipam":{"type":"dhcp"}}"#,
            "there is no plugin \"dhcp\"",
        ),
        (
            "j",
            r#"{"name":"j","plugins":[]}"#,
            "\"plugins\" is not a list",
        ),
        (
            "k",
            r#"{"name":"k","plugins":[3]}"#,
            "plugins[0] is not an object",
        ),
        (
            "l",
            r#"{"name":"l","type":"bridge","args":{"org.apache.mesos":{}}}"#,
            "which is reserved for the container's request",
        ),
        (
            "m",
            r#"{"name":"m","type":"bridge","args":[]}"#,
            "\"args\" is not an object",
        ),
        (
            "n",
            r#"{"name":"n","type":"bridge","cniVersion":1}"#,
            "is not a string",
        ),
        (
            "o",
            r#"{"name":"good","type":"bridge"}"#,
            "already defined in an earlier file",
        ),
    ] {
        fixture.write(&format!("x{file}"), json);
        let config = fixture.load("");
        assert!(chain(&config, "good").is_ok());
        let [problem] = config.cni_problems.as_slice() else {
            panic!("{json}: {:?}", config.cni_problems)
        };
        let message = problem.to_string();
        assert!(
            message.contains(expected),
            "{expected:?} is not in {message}"
        );
        assert!(message.contains(&format!("/net.d/x{file}: ")), "{message}");
        // Files that have a valid name.
        if ('e'..='n').any(|c| file == c.to_string()) {
            assert!(chain(&config, file).unwrap_err().contains(expected));
        }
        fs::remove_file(fixture.path("net.d").join(format!("x{file}"))).unwrap();
    }
}

#[test]
fn network_of_agent_toml_takes_precedence() {
    let fixture = Fixture::new();
    fixture.write("one", r#"{"name":"one","type":"bridge"}"#);
    let config =
        fixture.load("[[network]]\nname = 'one'\nprovider = 'bridge'\nsubnet = '10.0.0.0/24'\n");
    assert_eq!(config.networks.len(), 1);
    assert!(matches!(
        config.networks[0].provider,
        NetworkProvider::Bridge(_)
    ));
    assert_eq!(config.cni_problems, []);
}

#[test]
fn missing_directory_is_reported_as_problem() {
    let fixture = Fixture::new();
    fs::remove_dir_all(fixture.path("net.d")).unwrap();
    let config = fixture.load("");
    let [problem] = config.cni_problems.as_slice() else {
        panic!("{:?}", config.cni_problems)
    };
    assert!(problem.to_string().contains("cannot list the CNI networks"));
}

#[test]
fn debug_output_has_no_plugin_configuration() {
    let fixture = Fixture::new();
    fixture.write(
        "one",
        r#"{"name":"one","type":"bridge","password":"hunter2"}"#,
    );
    assert!(!format!("{:?}", fixture.load("")).contains("hunter2"));
}
