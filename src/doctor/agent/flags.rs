//! The flags of a mesos-agent, and what containers need of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use contrail_mesos_api::files::read_regular_or_linked_file;
use contrail_mesos_api::text::Quoted;
use serde::Deserialize;

use crate::doctor::Check;

/// The name of the isolator in `--isolation` and `--modules`.
pub(super) const ISOLATOR: &str = "network/contrail";
const HOOK: &str = "org_contrail_mesos_Hook";
/// Isolators beside which the agent does not start, or which give containers other networks.
const OTHER_ISOLATORS: [&str; 2] = ["network/cni", "network/port_mapping"];

/// The flags by their names, without dashes at the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Flags(BTreeMap<String, String>);

/// A module of `--modules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModuleEntry {
    pub(super) name: String,
    /// The file of its library; none if the agent looks for it by a name.
    pub(super) file: Option<PathBuf>,
    parameters: Vec<Parameter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Parameter {
    key: String,
    value: String,
}

#[derive(Deserialize)]
struct ModulesText {
    #[serde(default)]
    libraries: Vec<LibraryText>,
}

#[derive(Deserialize)]
struct LibraryText {
    file: Option<PathBuf>,
    #[serde(default)]
    modules: Vec<ModuleText>,
}

#[derive(Deserialize)]
struct ModuleText {
    name: String,
    #[serde(default)]
    parameters: Vec<Parameter>,
}

impl ModuleEntry {
    /// The value of a parameter.
    pub(super) fn parameter(&self, key: &str) -> Option<&str> {
        let parameter = self.parameters.iter().find(|one| one.key == key)?;
        Some(&parameter.value)
    }
}

impl Flags {
    /// The flags of a command line, and of the variables `MESOS_*` of an environment, which the command
    /// line overrides.
    pub(super) fn new<'a>(
        arguments: impl IntoIterator<Item = &'a str>,
        environment: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut flags = BTreeMap::new();
        for variable in environment {
            if let Some((name, value)) = variable.split_once('=')
                && let Some(name) = name.strip_prefix("MESOS_")
            {
                flags.insert(name.to_lowercase(), value.to_owned());
            }
        }
        for argument in arguments {
            let Some(flag) = argument.strip_prefix("--") else {
                continue;
            };
            let (name, value) = match (flag.split_once('='), flag.strip_prefix("no-")) {
                (Some((name, value)), _) => (name, value),
                (None, Some(name)) => (name, "false"),
                (None, None) => (flag, "true"),
            };
            flags.insert(name.to_owned(), value.to_owned());
        }
        Self(flags)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, by their names.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self.0)
    }

    /// The value of `--ip`.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.get("ip")?.parse().ok()
    }

    fn list(&self, name: &str) -> Vec<&str> {
        let value = self.get(name).unwrap_or_default();
        let words = value.split(',').map(str::trim);
        words.filter(|word| !word.is_empty()).collect()
    }

    fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    /// The modules of `--modules`, in the text or in a file, or of `--modules_dir`. What cannot be read
    /// has none. Blocks on the file system.
    pub(super) fn modules(&self) -> Vec<ModuleEntry> {
        let read = |path: &Path| {
            let bytes = read_regular_or_linked_file(path).unwrap_or_default();
            parse_modules(&String::from_utf8_lossy(&bytes))
        };
        if let Some(value) = self.get("modules") {
            return match value.strip_prefix("file://") {
                Some(path) => read(Path::new(path)),
                None if value.starts_with('/') => read(Path::new(value)),
                None => parse_modules(value),
            };
        }
        let files = self
            .get("modules_dir")
            .and_then(|path| fs::read_dir(path).ok());
        let mut paths: Vec<_> = files
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        paths.iter().flat_map(|path| read(path)).collect()
    }

    /// The checks of the flags that containers need.
    pub(super) fn checks(&self) -> Vec<Check> {
        let name = "agent-flags";
        let mut checks = vec![];
        let isolation = self.list("isolation");
        let shown = Quoted(self.get("isolation").unwrap_or_default().as_bytes()).to_string();
        if !isolation.contains(&ISOLATOR) {
            checks.push(Check::failure(
                name,
                format!("--isolation is {shown}, without {ISOLATOR}: containers get no network"),
                format!("add {ISOLATOR} to --isolation, and restart the agent"),
            ));
        }
        for other in OTHER_ISOLATORS {
            if isolation.contains(&other) {
                checks.push(Check::failure(
                    name,
                    format!("--isolation is {shown}, with {other}, beside which {ISOLATOR} does not work"),
                    format!("remove {other} from --isolation, after the agent is drained"),
                ));
            }
        }
        if !isolation.contains(&"filesystem/linux") {
            checks.push(Check::warning(
                name,
                format!(
                    "--isolation is {shown}, without filesystem/linux: containers do not get their /etc/hosts and \
                     /etc/resolv.conf"
                ),
                "add filesystem/linux to --isolation, and restart the agent",
            ));
        }
        // Of root on Linux, it is the default.
        let launcher = self.get("launcher").unwrap_or("linux");
        if launcher != "linux" {
            checks.push(Check::failure(
                name,
                format!(
                    "--launcher is {}, which gives containers no network namespaces",
                    Quoted(launcher.as_bytes())
                ),
                "set --launcher=linux, and restart the agent",
            ));
        }
        if !self.list("containerizers").contains(&"mesos") && self.get("containerizers").is_some() {
            checks.push(Check::failure(
                name,
                "--containerizers has no mesos, and the others do not use these networks",
                "add mesos to --containerizers, and restart the agent",
            ));
        }
        let modules = self.modules();
        let is_module = |wanted: &str| modules.iter().any(|module| module.name == wanted);
        if !is_module(ISOLATOR) {
            checks.push(Check::failure(
                "agent-modules",
                format!("--modules has no module {ISOLATOR}"),
                "install modules.json.example as /etc/mesos/modules.json, and set --modules=file:///etc/mesos/modules.json",
            ));
        }
        let hooks = self.list("hooks");
        if !hooks.contains(&HOOK) {
            checks.push(Check::warning(
                name,
                format!("--hooks has no {HOOK}: the status of tasks has no labels with MAC addresses and gateways"),
                format!("set --hooks={HOOK}, and add the module to --modules, if frameworks use these labels"),
            ));
        } else if !is_module(HOOK) {
            checks.push(Check::failure(
                "agent-modules",
                format!("--hooks has {HOOK}, and --modules does not"),
                format!("add the module {HOOK} to --modules"),
            ));
        }
        if checks.is_empty() {
            let text = "isolation, launcher, hooks and modules are as containers need them";
            checks.push(Check::ok(name, text));
        }
        checks
    }

    /// The check of the address that the agent gives to executors.
    pub(super) fn address_check(&self, address: IpAddr) -> Check {
        let name = "agent-address";
        let by_socket =
            self.is_true("http_executor_domain_sockets") && self.is_true("http_command_executor");
        let is_local = address.is_loopback() || address.is_unspecified();
        match (is_local, by_socket) {
            (_, true) => Check::ok(name, "executors reach the agent by a domain socket"),
            (false, false) => Check::ok(name, format!("executors reach the agent at {address}")),
            (true, false) => Check::failure(
                name,
                format!(
                    "the agent's address is {address}: executors with a network of their own do not reach it, and end"
                ),
                "set --ip to an address that containers can route to, or --http_command_executor and \
                 --http_executor_domain_sockets",
            ),
        }
    }
}

/// Reads JSON, as operators write the flag, or the text form of protobuf, as an agent shows it.
fn parse_modules(text: &str) -> Vec<ModuleEntry> {
    if !text.trim_start().starts_with('{') {
        return parse_protobuf_text(text);
    }
    let Ok(text) = serde_json::from_str::<ModulesText>(text) else {
        return vec![];
    };
    let libraries = text.libraries.into_iter();
    libraries
        .flat_map(|library| {
            let file = library.file;
            library.modules.into_iter().map(move |module| ModuleEntry {
                name: module.name,
                file: file.clone(),
                parameters: module.parameters,
            })
        })
        .collect()
}

/// Reads messages as `libraries {`, `modules {` and `parameters {`, with a field a line. The file of a
/// library comes before its modules.
fn parse_protobuf_text(text: &str) -> Vec<ModuleEntry> {
    let mut entries: Vec<ModuleEntry> = vec![];
    let mut messages = vec![];
    let mut file = None;
    for line in text.lines().map(str::trim) {
        if let Some(message) = line.strip_suffix(" {") {
            messages.push(message);
            match (messages.as_slice(), entries.last_mut()) {
                (["libraries"], _) => file = None,
                (["libraries", "modules"], _) => entries.push(ModuleEntry {
                    name: String::new(),
                    file: file.clone(),
                    parameters: vec![],
                }),
                (["libraries", "modules", "parameters"], Some(module)) => {
                    module.parameters.push(Parameter {
                        key: String::new(),
                        value: String::new(),
                    });
                }
                _ => {}
            }
            continue;
        }
        if line == "}" {
            messages.pop();
            continue;
        }
        let Some((field, value)) = line.split_once(": ") else {
            continue;
        };
        let value = unescape(value);
        match (messages.as_slice(), field, entries.last_mut()) {
            (["libraries"], "file", _) => file = Some(PathBuf::from(value)),
            (["libraries", "modules"], "name", Some(module)) => module.name = value,
            (["libraries", "modules", "parameters"], field, Some(module)) => {
                match (field, module.parameters.last_mut()) {
                    ("key", Some(parameter)) => parameter.key = value,
                    ("value", Some(parameter)) => parameter.value = value,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    entries
}

/// A string in quotes, with the escapes of C; bytes that are not ASCII are octal numbers.
fn unescape(quoted: &str) -> String {
    let text = quoted.strip_prefix('"').unwrap_or(quoted);
    let text = text.strip_suffix('"').unwrap_or(text);
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let octal = rest.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        if let Some(byte) = octal {
            bytes.push(byte);
            rest = &rest[3..];
        } else if let Some((escaped, after)) = rest.split_first() {
            bytes.push(match escaped {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                other => *other,
            });
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use contrail_mesos_api::parser_testing::for_damaged_input;

    const MODULES: &str = r#"{"libraries": [{"file": "/usr/lib/mesos/modules/libcontrail_mesos.so", "modules": [
        {"name": "network/contrail", "parameters": [{"key": "config", "value": "/etc/x.toml"}]},
        {"name": "org_contrail_mesos_Hook"}]}]}"#;

    fn good() -> Flags {
        let modules = format!("--modules={MODULES}");
        Flags::new(
            [
                "--isolation=filesystem/linux,network/contrail",
                "--hooks=org_contrail_mesos_Hook",
                modules.as_str(),
            ],
            ["MESOS_LAUNCHER=linux", "MESOS_ISOLATION=other", "PATH=/bin"],
        )
    }

    fn with(name: &str, value: Option<&str>) -> Vec<Check> {
        let mut flags = good();
        match value {
            Some(value) => drop(flags.0.insert(name.to_owned(), value.to_owned())),
            None => drop(flags.0.remove(name)),
        }
        flags.checks()
    }

    #[test]
    fn command_line_overrides_the_environment() {
        let flags = Flags::new(
            [
                "mesos-agent",
                "--no-systemd_enable_support",
                "--ip=192.0.2.1",
                "--strict",
                "x",
            ],
            ["MESOS_IP=127.0.0.1", "MESOS_MASTER=zk://a/b", "IP=1"],
        );
        assert_eq!(flags.get("systemd_enable_support"), Some("false"));
        assert_eq!(flags.ip(), Some("192.0.2.1".parse().unwrap()));
        assert!(flags.is_true("strict"));
        assert_eq!(flags.get("master"), Some("zk://a/b"));
    }

    #[test]
    fn each_wrong_flag_is_named() {
        let checks = good().checks();
        assert_eq!(
            (checks.len(), checks[0].severity),
            (1, Severity::Ok),
            "{checks:?}"
        );
        for (flag, value, severity, word) in [
            (
                "isolation",
                Some("filesystem/linux"),
                Severity::Failure,
                "network/contrail",
            ),
            (
                "isolation",
                Some("filesystem/linux,network/contrail,network/cni"),
                Severity::Failure,
                "network/cni",
            ),
            (
                "isolation",
                Some("network/contrail"),
                Severity::Warning,
                "filesystem/linux",
            ),
            ("launcher", Some("posix"), Severity::Failure, "launcher"),
            (
                "containerizers",
                Some("docker"),
                Severity::Failure,
                "containerizers",
            ),
            ("hooks", None, Severity::Warning, "hooks"),
        ] {
            let checks = with(flag, value);
            assert_eq!(checks.len(), 1, "{checks:?}");
            assert_eq!(checks[0].severity, severity, "{checks:?}");
            assert!(checks[0].text.contains(word), "{checks:?}");
            assert!(checks[0].remedy.is_some(), "{checks:?}");
        }
        let checks = with("modules", Some("{}"));
        assert_eq!(checks.len(), 2, "{checks:?}");
        assert!(checks.iter().all(|check| check.name == "agent-modules"));
    }

    #[test]
    fn loopback_address_needs_domain_sockets() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let check = |text| good().address_check(address(text)).severity;
        assert_eq!(check("127.0.1.1"), Severity::Failure);
        assert_eq!(check("192.0.2.1"), Severity::Ok);
        let mut flags = good();
        for flag in ["http_executor_domain_sockets", "http_command_executor"] {
            flags.0.insert(flag.to_owned(), "true".to_owned());
        }
        assert_eq!(
            flags.address_check(address("127.0.0.1")).severity,
            Severity::Ok
        );
    }

    #[test]
    fn modules_are_read_from_texts_files_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("modules.json");
        fs::write(&path, MODULES).unwrap();
        let file = format!("file://{}", path.display());
        for (flag, value) in [
            ("modules", MODULES.to_owned()),
            ("modules", file),
            ("modules", path.display().to_string()),
            ("modules_dir", directory.path().display().to_string()),
        ] {
            let argument = format!("--{flag}={value}");
            let modules = Flags::new([argument.as_str()], []).modules();
            assert_eq!(modules.len(), 2, "{argument}");
            assert_eq!(modules[0].parameter("config"), Some("/etc/x.toml"));
        }
        let text = "libraries {\n  file: \"/usr/lib/a.so\"\n  modules {\n    name: \"network/contrail\"\n    \
                    parameters {\n      key: \"config\"\n      value: \"/etc/\\303\\244\\\"\\n.toml\"\n    }\n  }\n\
                    }\nlibraries {\n  name: \"b\"\n  modules {\n    name: \"other\"\n  }\n}\n";
        let modules = parse_modules(text);
        assert_eq!(modules.len(), 2, "{modules:?}");
        assert_eq!(modules[0].file, Some(PathBuf::from("/usr/lib/a.so")));
        assert_eq!(modules[0].parameter("config"), Some("/etc/\u{e4}\"\n.toml"));
        assert_eq!(
            (modules[1].name.as_str(), &modules[1].file),
            ("other", &None)
        );
        for_damaged_input(text.as_bytes(), |input| {
            drop(parse_modules(&String::from_utf8_lossy(input)));
        });
        for_damaged_input(MODULES.as_bytes(), |input| {
            drop(parse_modules(&String::from_utf8_lossy(input)));
        });
    }
}
