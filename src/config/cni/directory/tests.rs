use tempfile::TempDir;

use super::*;
use crate::config::{Config, Source};

/// A directory of networks and one of plugins, `bridge`, `portmap` and `host-local`.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for directory in ["net.d", "bin"] {
            fs::create_dir(place.path(directory)).unwrap();
        }
        for plugin in ["bridge", "portmap", "host-local"] {
            place.plugin(plugin, 0o755);
        }
        place.plugin("no-program", 0o644);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn plugin(&self, name: &str, mode: u32) {
        let path = self.path("bin").join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("net.d").join(name), text).unwrap();
    }

    fn load(&self, more: &str) -> Config {
        let path = self.path("agent.toml");
        let text = format!(
            "[cni]\nconfig_dir = '{}'\nplugin_dirs = ['{}']\n{more}",
            self.path("net.d").display(),
            self.path("bin").display()
        );
        fs::write(&path, text).unwrap();
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
fn files_of_every_kind_are_networks() {
    let place = Place::new();
    place.write(
        "10-one.conf",
        r#"{"name":"one","cniVersion":"0.2.0","type":"bridge","ipam":{"type":"host-local"}}"#,
    );
    place.write("20-two.json", r#"{"name":"two","type":"bridge"}"#);
    place.write(
        "30-three.conflist",
        r#"{"name":"three","cniVersion":"1.0.0","plugins":[{"type":"bridge"},
            {"type":"portmap","capabilities":{"portMappings":true},"name":"else"}]}"#,
    );
    place.write(".hidden", "{");
    fs::create_dir(place.path("net.d").join("directory")).unwrap();
    let config = place.load("");
    assert_eq!(config.unusable, []);
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
    // As network/cni does, what a lone plugin is configured with is not added to.
    let two = &chain(&config, "two").unwrap().plugins[0];
    assert!(!two.contains_key("cniVersion"));
}

#[test]
fn a_bad_file_takes_only_its_own_network_away_and_says_why() {
    let place = Place::new();
    place.write("good", r#"{"name":"good","type":"bridge"}"#);
    for (file, text, expected) in [
        ("a", "{", "it is no JSON: see line 1"),
        ("b", "[]", "it is no JSON object"),
        ("c", r#"{"type":"bridge"}"#, "it has no \"name\""),
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
            r#"{"name":"h","type":"no-program"}"#,
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
            "\"plugins\" is no list",
        ),
        (
            "k",
            r#"{"name":"k","plugins":[3]}"#,
            "plugins[0] is no object",
        ),
        (
            "l",
            r#"{"name":"l","type":"bridge","args":{"org.apache.mesos":{}}}"#,
            "already, which is what a container asks for",
        ),
        (
            "m",
            r#"{"name":"m","type":"bridge","args":[]}"#,
            "\"args\" is no object",
        ),
        (
            "n",
            r#"{"name":"n","type":"bridge","cniVersion":1}"#,
            "is no text",
        ),
        (
            "o",
            r#"{"name":"good","type":"bridge"}"#,
            "in a file before this one",
        ),
    ] {
        place.write(&format!("x{file}"), text);
        let config = place.load("");
        assert!(chain(&config, "good").is_ok());
        let [problem] = config.unusable.as_slice() else {
            panic!("{text}: {:?}", config.unusable)
        };
        let said = problem.to_string();
        assert!(said.contains(expected), "{expected:?} is not in {said}");
        assert!(said.contains(&format!("/net.d/x{file}: ")), "{said}");
        if ('e'..='n').any(|letter| file == letter.to_string()) {
            assert!(chain(&config, file).unwrap_err().contains(expected));
        }
        fs::remove_file(place.path("net.d").join(format!("x{file}"))).unwrap();
    }
}

#[test]
fn what_the_agents_file_says_of_a_name_wins() {
    let place = Place::new();
    place.write("one", r#"{"name":"one","type":"bridge"}"#);
    let config =
        place.load("[[network]]\nname = 'one'\nprovider = 'bridge'\nsubnet = '10.0.0.0/24'\n");
    assert_eq!(config.networks.len(), 1);
    assert!(matches!(
        config.networks[0].provider,
        NetworkProvider::Bridge(_)
    ));
    assert_eq!(config.unusable, []);
}

#[test]
fn a_directory_that_is_not_there_harms_no_other_network() {
    let place = Place::new();
    fs::remove_dir_all(place.path("net.d")).unwrap();
    let config = place.load("");
    let [problem] = config.unusable.as_slice() else {
        panic!("{:?}", config.unusable)
    };
    assert!(problem.to_string().contains("cannot list the CNI networks"));
}

#[test]
fn what_plugins_are_told_is_not_shown() {
    let place = Place::new();
    place.write(
        "one",
        r#"{"name":"one","type":"bridge","password":"hunter2"}"#,
    );
    assert!(!format!("{:?}", place.load("")).contains("hunter2"));
}
