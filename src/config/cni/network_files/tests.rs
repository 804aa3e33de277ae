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
#[expect(clippy::too_many_lines, reason = "one table of files and messages")]
fn invalid_file_affects_only_its_own_network() {
    let fixture = Fixture::new();
    fixture.write("good.conf", r#"{"name":"good","type":"bridge"}"#);
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
            "p",
            r#"{"name":"p","type":"bridge","cniVersions":"1.0.0"}"#,
            "\"cniVersions\" is not a list",
        ),
        (
            "q",
            r#"{"name":"q","type":"bridge","cniVersions":["1.0.0",4]}"#,
            "has \"4\", which is not a version",
        ),
        (
            "r",
            r#"{"name":"r","type":"bridge","cniVersions":["1"]}"#,
            "has \"1\", which is not a version",
        ),
        (
            "s",
            r#"{"name":"s","plugins":[{"type":"bridge"}],"cniVersions":["0.5.0","2.0.0"]}"#,
            "has no version that is supported; supported are 0.1.0, ",
        ),
        (
            "o",
            r#"{"name":"good","type":"bridge"}"#,
            "already defined in an earlier file",
        ),
    ] {
        fixture.write(&format!("x{file}.conf"), json);
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
        assert!(
            message.contains(&format!("/net.d/x{file}.conf: ")),
            "{message}"
        );
        // Files that have a valid name.
        if file != "o" && file >= "e" {
            assert!(chain(&config, file).unwrap_err().contains(expected));
        }
        fs::remove_file(fixture.path("net.d").join(format!("x{file}.conf"))).unwrap();
    }
}

#[test]
fn network_of_agent_toml_takes_precedence() {
    let fixture = Fixture::new();
    fixture.write("one.conf", r#"{"name":"one","type":"bridge"}"#);
    let config =
        fixture.load("[[network]]\nname = 'one'\nprovider = 'bridge'\nsubnet = '10.0.0.0/24'\n");
    assert_eq!(config.networks.len(), 1);
    assert!(matches!(
        config.networks[0].provider,
        NetworkProvider::Bridge(_)
    ));
    assert_eq!(config.cni_problems, []);
    let [ignored] = config.cni_ignored.as_slice() else {
        panic!("{:?}", config.cni_ignored)
    };
    let ignored = ignored.to_string();
    assert!(
        ignored.contains("/net.d/one.conf: is ignored: a [[network]]"),
        "{ignored}"
    );
}

#[test]
fn files_with_other_names_are_ignored_and_listed() {
    let fixture = Fixture::new();
    let names = [
        "10-old.conflist.cilium_bak",
        "20-live.conf~",
        "30-live.conf.bak",
        "40-live.CONF",
        "50-live",
        "60-live.yaml",
        "conf",
    ];
    for (index, name) in names.iter().enumerate() {
        fixture.write(name, &format!(r#"{{"name":"n{index}","type":"bridge"}}"#));
    }
    for hidden in [".conf", ".swp.conf", ".70-live.conf.swp"] {
        fixture.write(hidden, r#"{"name":"hidden","type":"bridge"}"#);
    }
    fixture.write("80-live.conf", r#"{"name":"live","type":"bridge"}"#);
    let config = fixture.load("");
    assert_eq!(config.cni_problems, []);
    assert!(chain(&config, "live").is_ok());
    assert_eq!(config.networks.len(), 1, "{:?}", config.networks);
    let ignored: Vec<String> = config.cni_ignored.iter().map(ToString::to_string).collect();
    assert_eq!(ignored.len(), names.len(), "{ignored:?}");
    for (name, ignored) in names.iter().zip(&ignored) {
        assert!(
            ignored.contains(&format!("/net.d/{name}: is ignored: its name"))
                && ignored.contains(".conf, .conflist, .json"),
            "{ignored}"
        );
    }
}

#[test]
fn offered_versions_are_those_of_both_keys() {
    let fixture = Fixture::new();
    for (index, (keys, expected)) in [
        (r#""cniVersion":"0.4.0""#, ""),
        (r#""cniVersions":["1.0.0","0.4.0","1.0.0"]"#, "0.4.0 1.0.0"),
        (
            r#""cniVersion":"0.3.1","cniVersions":["9.0.0","1.1.0"]"#,
            "0.3.1 1.1.0",
        ),
        (r#""cniVersion":"1.0.0","cniVersions":[]"#, "1.0.0"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("n{index}");
        fixture.write(
            &format!("{name}.conflist"),
            &format!(r#"{{"name":"{name}",{keys},"plugins":[{{"type":"bridge"}}]}}"#),
        );
        let config = fixture.load("");
        let chain = chain(&config, &name).unwrap();
        let versions: Vec<String> = chain.versions.iter().map(ToString::to_string).collect();
        assert_eq!(versions.join(" "), expected, "{keys}");
        assert!(!chain.plugins[0].contains_key("cniVersions"));
    }
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
        "one.conf",
        r#"{"name":"one","type":"bridge","password":"hunter2"}"#,
    );
    assert!(!format!("{:?}", fixture.load("")).contains("hunter2"));
}
