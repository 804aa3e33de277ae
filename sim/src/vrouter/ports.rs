//! The registered ports and their files.
//!
//! Files are `<ports>/vm/<virtual machine>/<interface>` for `POST /vm`, and `<ports>/<interface>`
//! for `POST /port`. File names are uuids only, so that none can lead out of the directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::format::{canonical, pretty};
use crate::harness::clock;

/// The `author` in the files.
const AUTHOR: &str = "/usr/bin/contrail-vrouter-agent";
/// The type of a port whose interface is on another host.
const REMOTE_PORT_TYPE: i64 = 2;

/// The request that registered a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Registration {
    /// `POST /vm`
    Vm,
    /// `POST /port`
    Nova,
}

/// A port.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) machine: Uuid,
    pub(crate) tap: String,
    /// The fields of the request, with author and time.
    pub(crate) fields: Map<String, Value>,
    version: u64,
    pub(crate) enabled: bool,
}

/// The key of a port: request, virtual machine and interface.
pub(crate) type PortKey = (Registration, Uuid, Uuid);

/// All ports.
pub(crate) struct Ports {
    directory: PathBuf,
    by_key: BTreeMap<PortKey, Port>,
    version: u64,
}

impl Ports {
    /// Loads the ports that have a file and whose interface exists.
    pub(crate) fn load(directory: &Path, exists: impl Fn(&str) -> bool) -> Self {
        let mut ports = Self {
            directory: directory.to_owned(),
            by_key: BTreeMap::new(),
            version: 0,
        };
        let mut files: Vec<_> = uuids(directory)
            .into_iter()
            .map(|(_, path)| (Registration::Nova, path))
            .collect();
        for (_, machine) in uuids(&directory.join("vm")) {
            let found = uuids(&machine).into_iter();
            files.extend(found.map(|(_, path)| (Registration::Vm, path)));
        }
        for (registration, path) in files.into_iter().filter(|(_, path)| path.is_file()) {
            let text = fs::read(&path).unwrap_or_default();
            let read = match serde_json::from_slice(&text) {
                Ok(Value::Object(fields)) => match registration {
                    Registration::Vm => parse_vm_port(fields),
                    Registration::Nova => parse_nova_port(fields),
                },
                _ => Err("Invalid Json".to_owned()),
            };
            match read {
                Ok((_, port)) if !exists(&port.tap) => {
                    log::info!("{}: {} is not there, skipped", path.display(), port.tap);
                }
                Ok((key, port)) => drop(ports.by_key.insert(key, port)),
                Err(problem) => log::warn!("{}: {problem}, skipped", path.display()),
            }
        }
        ports
    }

    /// Adds a port, or registers it again.
    pub(crate) fn add(&mut self, key: PortKey, mut port: Port) {
        port.version = self.version;
        let path = self.path(key);
        port.fields.insert("author".to_owned(), AUTHOR.into());
        port.fields
            .insert("time".to_owned(), clock::agent_now().into());
        if !path.exists() {
            let write = || {
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory)?;
                }
                fs::write(&path, pretty(&Value::Object(port.fields.clone())))
            };
            if let Err(error) = write() {
                log::error!("cannot write {}: {error}", path.display());
            }
        }
        self.by_key.insert(key, port);
    }

    /// Removes a port and its file.
    pub(crate) fn remove(&mut self, key: PortKey) {
        self.by_key.remove(&key);
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::error!("cannot remove {}: {error}", path.display());
            }
            _ => {}
        }
        if key.0 == Registration::Vm
            && let Some(directory) = path.parent()
        {
            // The directory stays while it has other interfaces.
            let _ = fs::remove_dir(directory);
        }
    }

    fn path(&self, (registration, machine, interface): PortKey) -> PathBuf {
        let interface = interface.to_string();
        match registration {
            Registration::Vm => self
                .directory
                .join("vm")
                .join(machine.to_string())
                .join(interface),
            Registration::Nova => self.directory.join(interface),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&PortKey, &Port)> {
        self.by_key.iter()
    }

    /// The port of an interface of a virtual machine, whichever request registered it.
    pub(crate) fn of(&self, machine: Uuid, interface: Uuid) -> Option<&Port> {
        [Registration::Vm, Registration::Nova]
            .into_iter()
            .find_map(|registration| self.by_key.get(&(registration, machine, interface)))
    }

    /// The port of an interface that `POST /port` registered.
    pub(crate) fn nova(&mut self, interface: Uuid) -> Option<(PortKey, &mut Port)> {
        let mut ports = self.by_key.iter_mut();
        ports
            .find(|((registration, _, of), _)| {
                *registration == Registration::Nova && *of == interface
            })
            .map(|(key, port)| (*key, port))
    }

    /// Whether `POST /port` named a virtual machine; the agent then requests its configuration.
    pub(crate) fn subscribes(&self, machine: Uuid) -> bool {
        self.by_key
            .keys()
            .any(|(registration, of, _)| *registration == Registration::Nova && *of == machine)
    }

    /// Starts a new version: ports that are not registered again become stale.
    pub(crate) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Removes the ports that were last registered before this version.
    pub(crate) fn sweep(&mut self, version: u64) {
        let old: Vec<_> = self
            .by_key
            .iter()
            .filter(|(_, port)| port.version < version)
            .map(|(key, _)| *key)
            .collect();
        for key in old {
            log::info!("the port {} is stale", key.2);
            self.remove(key);
        }
    }
}

impl Port {
    fn new(machine: Uuid, tap: String, fields: Map<String, Value>) -> Self {
        Self {
            machine,
            tap,
            fields,
            version: 0,
            enabled: true,
        }
    }

    pub(crate) fn is_remote(&self) -> bool {
        self.fields.get("type").and_then(Value::as_i64) == Some(REMOTE_PORT_TYPE)
    }
}

/// Reads the body of `POST /vm`.
pub(crate) fn parse_vm_port(fields: Map<String, Value>) -> Result<(PortKey, Port), String> {
    let machine = uuid(&fields, "vm-uuid")?;
    let tap = text(&fields, "host-ifname")?;
    text(&fields, "vm-name")?;
    uuid(&fields, "vn-uuid")?;
    let interface = uuid(&fields, "vmi-uuid")?;
    Ok((
        (Registration::Vm, machine, interface),
        Port::new(machine, tap, fields),
    ))
}

/// Reads the body of `POST /port`.
pub(crate) fn parse_nova_port(fields: Map<String, Value>) -> Result<(PortKey, Port), String> {
    let interface = uuid(&fields, "id")?;
    let machine = uuid(&fields, "instance-id")?;
    for name in ["vn-id", "vm-project-id"] {
        uuid(&fields, name)?;
    }
    for name in ["display-name", "ip-address", "ip6-address"] {
        text(&fields, name)?;
    }
    let tap = text(&fields, "system-name")?;
    let mac = text(&fields, "mac-address")?;
    let zero = mac
        .chars()
        .all(|character| character == '0' || character == ':');
    if mac.matches(':').count() != 5 || zero {
        return Err("Invalid MAC address".to_owned());
    }
    for name in ["type", "rx-vlan-id", "tx-vlan-id"] {
        if !fields.get(name).is_some_and(Value::is_i64) {
            return Err(format!("Invalid or missing field for <{name}>"));
        }
    }
    Ok((
        (Registration::Nova, machine, interface),
        Port::new(machine, tap, fields),
    ))
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<String, String> {
    let text = fields.get(name).and_then(Value::as_str);
    text.map(str::to_owned)
        .ok_or_else(|| format!("Invalid or missing field for <{name}>"))
}

/// As in the real agent, a string that is no uuid counts as the nil uuid.
fn uuid(fields: &Map<String, Value>, name: &str) -> Result<Uuid, String> {
    let text = fields
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("Invalid or missing data for <{name}>"))?;
    Ok(text.parse().unwrap_or_default())
}

/// The entries of a directory whose names are uuids.
fn uuids(directory: &Path) -> Vec<(Uuid, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let uuid = canonical(entry.file_name().to_str()?)?;
            Some((uuid, entry.path()))
        })
        .collect();
    found.sort();
    found
}
