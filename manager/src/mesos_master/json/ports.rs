//! The declared ports of a task in the master's JSON.
//!
//! Frameworks write names and labels. Time is linear in what was written, and what is kept is bounded.

use std::num::NonZeroU32;

use arcstr::ArcStr;
use contrail_mesos_api::text::Quoted;
use serde::Deserialize;

use super::parts::{Label, RawLabels, or_default};
use crate::intern::Interner;
use crate::mesos_master::ports::{
    Discovery, DiscoveryPort, LabelProblem, MAX_LABEL_PROBLEMS, MAX_PORTS, MAX_VALUE_BYTES,
    MAX_VIPS, PortMapping, Protocols, Scope,
};

/// The longest name of a port or of a task that is kept, in bytes. A DNS label has 63.
pub(super) const MAX_NAME_BYTES: usize = 255;

const SCOPE: &str = "network-scope";
const NETWORK: &str = "network-name";
/// Begins like a virtual IP, but is none.
const AFFINITY: &str = "vip-affinity";
/// The affinity `client`, in seconds: that of Kubernetes.
const DEFAULT_AFFINITY: u32 = 10_800;
/// The longest affinity, in seconds: that of Kubernetes.
const MAX_AFFINITY: u32 = 86_400;
/// Of the label of a task, in lower case, before the index.
const TASK_VIP: &str = "vip_port";

#[derive(Deserialize, Default)]
pub(super) struct RawDiscovery {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    ports: RawPorts,
}

#[derive(Deserialize, Default)]
struct RawPorts {
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<RawPort>,
}

#[derive(Deserialize)]
struct RawPort {
    #[serde(default, deserialize_with = "or_default")]
    number: u64,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    labels: RawLabels,
}

#[derive(Deserialize)]
pub(super) struct RawPortMapping {
    #[serde(default, deserialize_with = "or_default")]
    host_port: u64,
    #[serde(default, deserialize_with = "or_default")]
    container_port: u64,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct RawResource {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    ranges: RawRanges,
}

#[derive(Deserialize, Default)]
struct RawRanges {
    #[serde(default, deserialize_with = "or_default")]
    range: Vec<RawRange>,
}

#[derive(Deserialize)]
struct RawRange {
    #[serde(default, deserialize_with = "or_default")]
    begin: u64,
    #[serde(default, deserialize_with = "or_default")]
    end: u64,
}

/// The mappings that can be.
pub(super) fn mappings(raw: &[RawPortMapping]) -> Box<[PortMapping]> {
    let port = |number: u64| u16::try_from(number).ok().filter(|number| *number > 0);
    raw.iter()
        .filter_map(|mapping| {
            Some(PortMapping {
                host: port(mapping.host_port)?,
                container: port(mapping.container_port)?,
                protocols: Protocols::parse(mapping.protocol.as_deref()),
            })
        })
        .take(MAX_PORTS)
        .collect()
}

/// A name, cut to what is kept.
pub(super) fn name(text: Option<&str>, names: &mut Interner) -> Option<ArcStr> {
    names.optional(text.map(|text| &text[..text.floor_char_boundary(MAX_NAME_BYTES)]))
}

/// What cannot be read. The first ones are kept.
#[derive(Default)]
struct Problems(Vec<LabelProblem>);

impl Problems {
    fn add(&mut self, subject: impl FnOnce() -> String, message: impl FnOnce() -> String) {
        if self.0.len() < MAX_LABEL_PROBLEMS {
            self.0.push(LabelProblem {
                subject: subject().into(),
                message: message().into(),
            });
        }
    }
}

/// Reads what a task declares; none if that is nothing.
pub(super) fn discovery(
    raw: RawDiscovery,
    task_labels: &[Label],
    resources: &[RawResource],
    names: &mut Interner,
) -> Option<Discovery> {
    let mut problems = Problems::default();
    let count = raw.ports.ports.len();
    if count > MAX_PORTS {
        problems.add(
            || format!("{count} ports"),
            || format!("the ports after the first {MAX_PORTS} are left out"),
        );
    }
    let declared = raw.ports.ports.into_iter().take(MAX_PORTS);
    let mut ports: Vec<DiscoveryPort> = declared
        .filter_map(|port| port.read(names, &mut problems))
        .collect();
    for label in task_labels {
        if ports.len() == MAX_PORTS {
            break;
        }
        ports.extend(task_vip(label, resources, names, &mut problems));
    }
    (!ports.is_empty() || !problems.0.is_empty()).then(|| Discovery {
        ports: ports.into(),
        problems: problems.0.into(),
    })
}

/// What the labels of a port say.
#[derive(Default)]
struct PortLabels {
    scope: Option<Scope>,
    network: Option<ArcStr>,
    affinity: Option<NonZeroU32>,
    vips: Vec<ArcStr>,
}

impl RawPort {
    fn read(self, names: &mut Interner, problems: &mut Problems) -> Option<DiscoveryPort> {
        let (number, name_text) = (self.number, self.name);
        let describe = || port_text(number, name_text.as_deref());
        let labels = self.labels.labels;
        let labels = read_labels(&labels, &describe, names, problems)?;
        let Ok(number) = u16::try_from(number) else {
            if !labels.vips.is_empty() {
                problems.add(describe, || "it is no port: the last is 65535".to_owned());
            }
            return None;
        };
        Some(DiscoveryPort {
            number,
            protocols: Protocols::parse(self.protocol.as_deref()),
            scope: labels.scope.unwrap_or_default(),
            affinity: labels.affinity,
            name: name(name_text.as_deref(), names),
            network: labels.network,
            vips: labels.vips.into(),
        })
    }
}

/// Returns none where it is not known what the number counts.
fn read_labels(
    labels: &[Label],
    describe: &impl Fn() -> String,
    names: &mut Interner,
    problems: &mut Problems,
) -> Option<PortLabels> {
    let mut read = PortLabels::default();
    let mut vip_count = 0;
    for Label { key, value } in labels {
        let subject = || {
            let (key, value) = (Quoted(key.as_bytes()), Quoted(value.as_bytes()));
            format!("{}, label {key}: {value}", describe())
        };
        if key == SCOPE {
            let scope = match value.as_str() {
                "container" => Some(Scope::Container),
                "host" => Some(Scope::Host),
                _ => None,
            };
            if scope.is_none() || read.scope.is_some_and(|other| Some(other) != scope) {
                problems.add(subject, || {
                    "the port is left out: write \"container\" or \"host\", once".to_owned()
                });
                return None;
            }
            read.scope = scope;
        } else if key == NETWORK {
            read.network = name(Some(value), names).or(read.network);
        } else if key.eq_ignore_ascii_case(AFFINITY) {
            read.affinity = affinity(value);
            if read.affinity.is_none() {
                problems.add(subject, || {
                    format!("write \"client\", or 1 to {MAX_AFFINITY} seconds")
                });
            }
        } else if key.starts_with("VIP") || key.starts_with("vip") {
            vip_count += 1;
            if vip_count > MAX_VIPS {
                continue;
            }
            if value.len() > MAX_VALUE_BYTES {
                problems.add(subject, || {
                    format!("it has more than {MAX_VALUE_BYTES} bytes")
                });
                continue;
            }
            read.vips.push(names.get(value));
        }
    }
    if vip_count > MAX_VIPS {
        problems.add(
            || format!("{}: {vip_count} virtual IPs", describe()),
            || format!("those after the first {MAX_VIPS} are left out"),
        );
    }
    Some(read)
}

fn port_text(number: u64, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("port {number} {}", Quoted(name.as_bytes())),
        None => format!("port {number}"),
    }
}

fn affinity(value: &str) -> Option<NonZeroU32> {
    let seconds = match value.trim() {
        "client" => DEFAULT_AFFINITY,
        seconds => seconds.parse().ok()?,
    };
    NonZeroU32::new(seconds).filter(|seconds| seconds.get() <= MAX_AFFINITY)
}

/// The port that a label `vip_PORT<index>` of a task is about: the index counts the task's ports in its
/// resources.
fn task_vip(
    label: &Label,
    resources: &[RawResource],
    names: &mut Interner,
    problems: &mut Problems,
) -> Option<DiscoveryPort> {
    let Label { key, value } = label;
    let (prefix, index) = key.split_at_checked(TASK_VIP.len())?;
    if !prefix.eq_ignore_ascii_case(TASK_VIP) {
        return None;
    }
    let index: u64 = index.parse().ok()?;
    let subject = || {
        let (key, value) = (Quoted(key.as_bytes()), Quoted(value.as_bytes()));
        format!("label {key}: {value}")
    };
    let known = value
        .split_once("://")
        .filter(|(protocol, _)| matches!(*protocol, "tcp" | "udp"));
    let Some((protocol, vip)) = known.filter(|(_, vip)| vip.len() <= MAX_VALUE_BYTES) else {
        problems.add(subject, || {
            format!(
                "write a virtual IP of at most {MAX_VALUE_BYTES} bytes behind tcp:// or udp://, such as \
                 tcp:///web:80"
            )
        });
        return None;
    };
    let Some(number) = port_resource(resources, index) else {
        problems.add(subject, || {
            "the task has not so many ports among its resources; the first is vip_PORT0".to_owned()
        });
        return None;
    };
    Some(DiscoveryPort {
        number,
        protocols: Protocols::parse(Some(protocol)),
        scope: Scope::Host,
        affinity: None,
        name: None,
        network: None,
        vips: Box::new([names.get(vip)]),
    })
}

/// A port of the resources, by its index.
fn port_resource(resources: &[RawResource], mut index: u64) -> Option<u16> {
    let ports = resources.iter().filter(|resource| resource.name == "ports");
    for range in ports.flat_map(|resource| &resource.ranges.range) {
        let Some(length) = range.end.checked_sub(range.begin) else {
            continue;
        };
        if index <= length {
            return u16::try_from(range.begin.checked_add(index)?).ok();
        }
        index -= length + 1;
    }
    None
}
