//! The subsystem `cni-files`: a CNI configuration of each overlay, for agents whose containers get
//! their networks by `network/cni`.
//!
//! The files are those of the DC/OS overlay module: `<directory>/<overlay>.conf`, with a bridge
//! `m-<overlay>` and addresses of this node's part that is for Mesos containers. Invariants: a file is
//! replaced as a whole. A file that is not the configuration of an overlay's bridge is never touched,
//! and one is removed only if this daemon wrote it: the record of its names is written first. An overlay
//! that isolates groups has no file, because `network/cni` would not isolate its containers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use contrail_mesos::node_state::replace_file;
use contrail_mesos_api::cluster::Node;
use contrail_mesos_api::files::read_regular_file;
use contrail_mesos_api::overlay_modules::MESOS_BRIDGE_PREFIX;
use contrail_mesos_api::text::Quoted;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::cluster_state::ClusterState;
use crate::local_state::local_state;
use crate::subsystem::{BoxError, Change, Mode, Outcome, Subsystem};
use crate::uplink::{self, Uplink};

/// The plugin of Mesos that maps ports, and calls another one.
const TYPE: &str = "mesos-cni-port-mapper";
/// The longest name of an overlay: those of its bridges have two characters more, and interfaces 15.
const MAX_NAME_BYTES: usize = 13;

/// What the files contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniFileOptions {
    /// Where they are.
    pub directory: PathBuf,
    /// Where the plugin `host-local` keeps its leases; its own default if none.
    pub data_directory: Option<PathBuf>,
    /// The MTU of the containers' interfaces, unless an overlay needs a smaller one.
    pub mtu: u32,
}

/// Writes the files.
#[derive(Debug)]
pub struct CniFilesSubsystem {
    /// None if there are to be no files.
    options: Option<CniFileOptions>,
    /// The file with the paths of the files that were written.
    record: PathBuf,
}

/// The paths of the files that this daemon has written, or is about to write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    files: BTreeSet<PathBuf>,
}

impl CniFilesSubsystem {
    /// The files of the daemon with this state directory. Without options, those of earlier runs are
    /// removed.
    #[must_use]
    pub fn new(state_dir: &Path, options: Option<CniFileOptions>) -> Self {
        Self {
            options,
            record: state_dir.join("node").join("cni-files.json"),
        }
    }

    fn read_record(&self) -> Record {
        // Without it, files of earlier runs stay.
        read_regular_file(&self.record)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn write_record(&self, files: BTreeSet<PathBuf>) -> Result<(), BoxError> {
        let bytes = serde_json::to_vec(&Record { files })?;
        replace_file(&self.record, &bytes).map_err(|error| {
            format!(
                "cannot write {}: {error}; the CNI configurations stay as they are",
                self.record.display()
            )
        })?;
        Ok(())
    }

    /// The files of the overlays on which containers can be launched.
    fn desired(&self, cluster: &ClusterState, uplink: Option<&Uplink>) -> Desired {
        let mut desired = Desired::default();
        let Some(options) = &self.options else {
            return desired;
        };
        for overlay in local_state(cluster, uplink).overlays {
            let shared = cluster.overlays.get(&overlay.name);
            if shared.is_some_and(|shared| shared.lends_blocks && shared.enabled) {
                desired.problems.push(format!(
                    "overlay {} lends blocks, of which network/cni uses one only, so it has no CNI \
                     configuration: use the isolator network/contrail for its containers, or give the \
                     overlay \"ipam\": \"node\"",
                    Quoted(overlay.name.as_bytes())
                ));
            }
            let Some(subnet) = overlay.subnet else {
                continue;
            };
            if overlay.problem.is_some() || !is_file_name(&overlay.name) {
                continue;
            }
            if overlay.groups.is_some() {
                desired.problems.push(format!(
                    "overlay {} isolates groups, which network/cni cannot, so it has no CNI \
                     configuration: use the isolator network/contrail for its containers, or let the \
                     overlay isolate no groups",
                    overlay.name
                ));
                continue;
            }
            let path = options.directory.join(format!("{}.conf", overlay.name));
            let text = options.file(&overlay.name, subnet, options.mtu.min(overlay.mtu));
            desired.files.insert(path, text);
        }
        desired
    }
}

/// What there must be.
#[derive(Debug, Default)]
struct Desired {
    /// The text of each file.
    files: BTreeMap<PathBuf, String>,
    /// Why overlays have none.
    problems: Vec<String>,
}

impl CniFileOptions {
    fn file(&self, overlay: &str, subnet: Ipv4Net, mtu: u32) -> String {
        let bridge = format!("{MESOS_BRIDGE_PREFIX}{overlay}");
        let file = CniFile {
            name: overlay,
            kind: TYPE,
            exclude_devices: [&bridge],
            chain: bridge.to_uppercase(),
            delegate: Delegate {
                kind: "bridge",
                bridge: &bridge,
                is_gateway: true,
                ip_masq: false,
                hairpin_mode: true,
                mtu,
                ipam: Ipam {
                    kind: "host-local",
                    data_dir: self.data_directory.as_deref(),
                    subnet,
                    routes: [Route { dst: "0.0.0.0/0" }],
                },
            },
        };
        // Serialization fails only for paths that are not UTF-8, which the configuration refuses.
        serde_json::to_string(&file).unwrap_or_default()
    }
}

/// The keys in the order in which the DC/OS module writes them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CniFile<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    exclude_devices: [&'a str; 1],
    chain: String,
    delegate: Delegate<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Delegate<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    bridge: &'a str,
    is_gateway: bool,
    ip_masq: bool,
    hairpin_mode: bool,
    mtu: u32,
    ipam: Ipam<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ipam<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<&'a Path>,
    subnet: Ipv4Net,
    routes: [Route<'a>; 1],
}

#[derive(Serialize)]
struct Route<'a> {
    dst: &'a str,
}

/// Whether the name of an overlay, which managers send, can be that of a file and of a bridge.
fn is_file_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether this is the configuration of the bridge of the overlay that the file is named after: ours,
/// or one that the DC/OS module left.
fn is_overlay_file(path: &Path, bytes: &[u8]) -> bool {
    let Some(name) = path.file_stem().and_then(|name| name.to_str()) else {
        return false;
    };
    let Ok(file) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return false;
    };
    file["type"] == TYPE
        && file["name"] == name
        && file["delegate"]["type"] == "bridge"
        && file["delegate"]["bridge"] == format!("{MESOS_BRIDGE_PREFIX}{name}")
}

/// What is at a path.
enum Present {
    Nothing,
    OverlayFile(Vec<u8>),
    Foreign,
}

impl Present {
    fn read(path: &Path) -> io::Result<Self> {
        match read_regular_file(path) {
            Ok(bytes) if is_overlay_file(path, &bytes) => Ok(Self::OverlayFile(bytes)),
            Ok(_) => Ok(Self::Foreign),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Nothing),
            Err(error) => Err(error),
        }
    }
}

impl Subsystem for CniFilesSubsystem {
    fn name(&self) -> &'static str {
        "cni-files"
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        let address = cluster.own_node().map(|node: &Node| node.address);
        let uplink = match address {
            Some(address) => uplink::of_this_host(address)?,
            None => None,
        };
        match address {
            // Containers that are launched meanwhile are reached when it is back.
            Some(address) if uplink.is_none() && self.options.is_some() => Ok(Outcome {
                changes: vec![],
                problems: vec![format!(
                    "no interface of this host has its address {address}; the CNI configurations stay \
                     as they are until one has it"
                )],
            }),
            _ => {
                let desired = self.desired(cluster, uplink.as_ref());
                let mut outcome = self.apply(&desired.files, mode)?;
                outcome.problems.extend(desired.problems);
                Ok(outcome)
            }
        }
    }
}

impl CniFilesSubsystem {
    /// Writes what differs, and removes what is not desired any more.
    fn apply(&self, desired: &BTreeMap<PathBuf, String>, mode: Mode) -> Result<Outcome, BoxError> {
        let mut outcome = Outcome::default();
        let before = self.read_record().files;
        let paths: BTreeSet<PathBuf> = desired.keys().cloned().collect();
        let mut recorded: BTreeSet<PathBuf> = before.union(&paths).cloned().collect();
        if mode == Mode::Apply && recorded != before {
            self.write_record(recorded.clone())?;
        }
        for (path, text) in desired {
            let written = match Present::read(path) {
                Ok(Present::OverlayFile(bytes)) if bytes == text.as_bytes() => continue,
                Ok(Present::Foreign) => {
                    recorded.remove(path);
                    outcome.problems.push(format!(
                        "{} is not the configuration of an overlay's bridge, so it stays, and \
                         network/cni uses it; move it away",
                        Quoted(path.as_os_str().as_encoded_bytes())
                    ));
                    continue;
                }
                Ok(_) if mode == Mode::DryRun => Ok(()),
                Ok(_) => replace_file(path, text.as_bytes()).map(drop),
                Err(error) => Err(error),
            };
            let shown = Quoted(path.as_os_str().as_encoded_bytes()).to_string();
            match written {
                Ok(()) => outcome.changes.push(Change(format!("write {shown}"))),
                Err(error) => outcome.problems.push(format!(
                    "cannot write {shown}: {error}; containers cannot be launched on the overlay"
                )),
            }
        }
        for path in before.difference(&paths) {
            let shown = Quoted(path.as_os_str().as_encoded_bytes()).to_string();
            let removed = match Present::read(path) {
                Ok(Present::OverlayFile(_)) if mode == Mode::Apply => {
                    std::fs::remove_file(path).map(|()| true)
                }
                Ok(Present::OverlayFile(_)) => Ok(true),
                // Another one took its place.
                Ok(Present::Nothing | Present::Foreign) => Ok(false),
                Err(error) => Err(error),
            };
            match removed {
                Ok(is_change) => {
                    recorded.remove(path);
                    if is_change {
                        outcome.changes.push(Change(format!("remove {shown}")));
                    }
                }
                Err(error) => outcome
                    .problems
                    .push(format!("cannot remove {shown}: {error}; remove it by hand")),
            }
        }
        if mode == Mode::Apply && recorded != self.read_record().files {
            self.write_record(recorded)?;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::cluster::Admission;
    use serde_json::json;

    use super::*;
    use crate::testing::cluster;

    struct Directories {
        root: tempfile::TempDir,
    }

    impl Directories {
        fn new() -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join("cni").join(name)
        }

        fn options(&self) -> CniFileOptions {
            CniFileOptions {
                directory: self.root.path().join("cni"),
                data_directory: None,
                mtu: 1420,
            }
        }

        fn subsystem(&self) -> CniFilesSubsystem {
            CniFilesSubsystem::new(self.root.path(), Some(self.options()))
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.root.path().join("cni")).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    fn uplink(mtu: u32) -> Uplink {
        Uplink {
            index: 2,
            name: "eth0".to_owned(),
            mtu,
        }
    }

    type Files = BTreeMap<PathBuf, String>;

    fn desired(subsystem: &CniFilesSubsystem, state: &ClusterState) -> Files {
        subsystem.desired(state, Some(&uplink(1500))).files
    }

    #[test]
    fn file_is_that_of_the_dcos_module() {
        let directories = Directories::new();
        let subsystem = directories.subsystem();
        let dcos = directories.path("dcos.conf");
        let files = desired(&subsystem, &cluster("3.1"));
        assert_eq!(
            files[&directories.path("dcos.conf")],
            "{\"name\":\"dcos\",\"type\":\"mesos-cni-port-mapper\",\"excludeDevices\":[\"m-dcos\"],\
             \"chain\":\"M-DCOS\",\"delegate\":{\"type\":\"bridge\",\"bridge\":\"m-dcos\",\
             \"isGateway\":true,\"ipMasq\":false,\"hairpinMode\":true,\"mtu\":1420,\"ipam\":\
             {\"type\":\"host-local\",\"subnet\":\"9.0.1.0/25\",\"routes\":[{\"dst\":\"0.0.0.0/0\"}]}}}"
        );
        let options = CniFileOptions {
            data_directory: Some("/var/lib/leases".into()),
            ..directories.options()
        };
        let subsystem = CniFilesSubsystem::new(directories.root.path(), Some(options));
        // A smaller uplink needs a smaller MTU.
        let files = subsystem
            .desired(&cluster("3.1"), Some(&uplink(1400)))
            .files;
        let file: serde_json::Value = serde_json::from_str(&files[&dcos]).unwrap();
        assert_eq!(file["delegate"]["mtu"], 1350);
        assert_eq!(file["delegate"]["ipam"]["dataDir"], "/var/lib/leases");
    }

    #[test]
    fn overlays_without_containers_have_no_file() {
        let directories = Directories::new();
        let subsystem = directories.subsystem();
        let without_uplink = subsystem.desired(&cluster("3.1"), None);
        assert!(without_uplink.files.is_empty());
        let mut state = cluster("3.1");
        let mut hostile = state.overlays["dcos"].clone();
        hostile.name = "../../x".to_owned();
        state.overlays.insert(hostile.name.clone(), hostile);
        state.nodes.get_mut("node-1").unwrap().subnets[0].overlay = "../../x".to_owned();
        assert!(desired(&subsystem, &state).is_empty());
        let mut state = cluster("3.1");
        state.overlays.get_mut("dcos").unwrap().enabled = false;
        assert!(desired(&subsystem, &state).is_empty());
    }

    #[test]
    fn overlay_that_isolates_groups_has_no_file() {
        let directories = Directories::new();
        let subsystem = directories.subsystem();
        let mut state = cluster("3.1");
        let files = desired(&subsystem, &state);
        subsystem.apply(&files, Mode::Apply).unwrap();
        assert_eq!(directories.names(), ["dcos.conf"]);
        state.overlays.get_mut("dcos").unwrap().groups = Some(Admission::default());
        let desired = subsystem.desired(&state, Some(&uplink(1500)));
        assert_eq!(desired.problems.len(), 1);
        assert!(desired.problems[0].contains("overlay dcos isolates groups"));
        subsystem.apply(&desired.files, Mode::Apply).unwrap();
        assert_eq!(directories.names(), [""; 0]);
    }

    #[test]
    fn files_stay_while_the_address_is_away_and_go_if_there_are_to_be_none() {
        let directories = Directories::new();
        let mut subsystem = directories.subsystem();
        let mut state = cluster("3.1");
        let files = desired(&subsystem, &state);
        subsystem.apply(&files, Mode::Apply).unwrap();
        // No interface has an address for documentation.
        let outcome = subsystem.reconcile(&state, Mode::Apply).unwrap();
        assert_eq!(outcome.changes, []);
        assert!(outcome.problems[0].contains("192.0.2.1"), "{outcome:?}");
        assert_eq!(directories.names(), ["dcos.conf"]);
        // The loopback interface has this one.
        state.nodes.get_mut("node-1").unwrap().address = [127, 0, 0, 1].into();
        let mut subsystem = CniFilesSubsystem::new(directories.root.path(), None);
        let outcome = subsystem.reconcile(&state, Mode::Apply).unwrap();
        assert_eq!(outcome.changes.len(), 1, "{outcome:?}");
        assert_eq!(directories.names(), [""; 0]);
    }

    #[test]
    fn files_follow_the_overlays() {
        let directories = Directories::new();
        let subsystem = directories.subsystem();
        let mut files = desired(&subsystem, &cluster("3.1"));
        let outcome = subsystem.apply(&files, Mode::DryRun).unwrap();
        assert_eq!(outcome.changes.len(), 1);
        assert!(!directories.path("dcos.conf").exists());
        subsystem.apply(&files, Mode::Apply).unwrap();
        assert_eq!(
            subsystem.apply(&files, Mode::Apply).unwrap(),
            Outcome::default()
        );
        // What somebody changes is restored, what is not ours stays.
        let other = json!({"name": "other", "type": "bridge"}).to_string();
        std::fs::write(directories.path("other.conf"), &other).unwrap();
        let changed = files[&directories.path("dcos.conf")].replace("1420", "9000");
        std::fs::write(directories.path("dcos.conf"), changed).unwrap();
        let outcome = subsystem.apply(&files, Mode::Apply).unwrap();
        assert_eq!(outcome.changes.len(), 1, "{outcome:?}");
        let text = std::fs::read_to_string(directories.path("dcos.conf")).unwrap();
        assert_eq!(text, files[&directories.path("dcos.conf")]);
        files.clear();
        // A new run knows the files of the last one.
        let subsystem = directories.subsystem();
        let outcome = subsystem.apply(&files, Mode::Apply).unwrap();
        assert_eq!(outcome.changes.len(), 1, "{outcome:?}");
        assert_eq!(directories.names(), ["other.conf"]);
        assert_eq!(subsystem.read_record(), Record::default());
    }

    #[test]
    fn foreign_files_stay() {
        let directories = Directories::new();
        let subsystem = directories.subsystem();
        let files = desired(&subsystem, &cluster("3.1"));
        let foreign = json!({"name": "dcos", "type": "bridge", "bridge": "br0"}).to_string();
        std::fs::create_dir(directories.root.path().join("cni")).unwrap();
        std::fs::write(directories.path("dcos.conf"), &foreign).unwrap();
        // One that the DC/OS module left of an overlay that is gone.
        let left = files[&directories.path("dcos.conf")].replace("dcos", "left");
        std::fs::write(directories.path("left.conf"), &left).unwrap();
        for _ in 0..2 {
            let outcome = subsystem.apply(&files, Mode::Apply).unwrap();
            assert_eq!((outcome.changes.len(), outcome.problems.len()), (0, 1));
        }
        subsystem.apply(&BTreeMap::new(), Mode::Apply).unwrap();
        assert_eq!(directories.names(), ["dcos.conf", "left.conf"]);
        let text = std::fs::read_to_string(directories.path("dcos.conf")).unwrap();
        assert_eq!(text, foreign);
        // What the DC/OS module left of an overlay that is there is taken over.
        std::fs::write(
            directories.path("dcos.conf"),
            files[&directories.path("dcos.conf")].replace("1420", "1"),
        )
        .unwrap();
        subsystem.apply(&files, Mode::Apply).unwrap();
        subsystem.apply(&BTreeMap::new(), Mode::Apply).unwrap();
        assert_eq!(directories.names(), ["left.conf"]);
    }
}
