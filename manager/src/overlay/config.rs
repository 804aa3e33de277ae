//! The file of the overlay networks: that of the DC/OS overlay modules, with a few keys more.
//!
//! Both shapes are read: the object of the networks alone, and the master module's file, which has it
//! under `network`. Invariants: an [`OverlayConfig`] is valid as a whole, so that allocation cannot
//! fail for any other reason than that something is used up. All problems of a file are reported at
//! once, each with its key and place.

mod checks;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};

use contrail_mesos_api::cluster::{Admission, Overlay, Underlay, VXLAN_PORT};
use contrail_mesos_api::config_reader::{
    ConfigError, ConfigProblem, Document, Section, known_word, read_file,
};
use contrail_mesos_api::container::Mac;

/// The VXLAN network identifier of the one device that all overlays of DC/OS share.
pub(crate) const SHARED_VNI: u32 = 1024;
const MAX_VNI: u32 = (1 << 24) - 1;
/// IPv6 needs links of at least this MTU (RFC 8200).
const MIN_MTU6: u32 = 1280;
/// What every host of IPv4 must accept (RFC 791).
const MIN_MTU4: u32 = 576;
const MAX_MTU: u32 = 65_535;
/// How long a block that was given back is kept from other nodes: until then all nodes have removed their
/// routes to its last node, unless they do not follow the managers.
pub(super) const BLOCK_REST: Duration = Duration::from_mins(5);
/// Nodes that follow the managers apply a change within this time.
const MIN_BLOCK_REST: Duration = Duration::from_secs(1);
const SUBNET4: &str = "an IPv4 subnet such as \"9.0.0.0/8\"";
const SUBNET6: &str = "an IPv6 subnet such as \"fd01:b::/64\"";
const ADMIT: &str = "\"hosts\" or \"mapped-ports\"";
const IPAM: &str = "\"node\" or \"cluster\"";
const OUI: &str = "a MAC address whose last three bytes are zero, such as \"70:B3:D5:00:00:00\"";
const NAME: &str = "a name of 1 to 13 letters, digits, dots, underscores and hyphens, beginning with a letter or digit";

/// The overlay networks of a cluster. Valid as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayConfig {
    /// The subnet of the nodes' tunnel endpoints. Its prefix is from 8 to 30.
    pub vtep_subnet: Ipv4Net,
    /// The IPv6 subnet of the nodes' tunnel endpoints. There is one if an overlay has an IPv6 subnet.
    pub vtep_subnet6: Option<Ipv6Net>,
    /// The first three bytes of the endpoints' MAC addresses.
    pub vtep_mac_oui: [u8; 3],
    /// The UDP port of VXLAN.
    pub vxlan_port: u16,
    /// How long a block that a node has given back rests before another node gets it.
    pub block_rest: Duration,
    /// The overlays, in the order of the file. Their names are distinct, their subnets are disjoint.
    pub overlays: Vec<OverlayDefinition>,
    /// What is valid, but probably a mistake.
    pub warnings: Vec<ConfigProblem>,
}

/// An overlay network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayDefinition {
    /// The name that frameworks use: 1 to 13 characters.
    pub name: String,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// Where the nodes' IPv4 subnets come from. At least one of both families is there.
    pub subnets: Option<SubnetPool<Ipv4Net>>,
    /// Where the nodes' IPv6 subnets come from.
    pub subnets6: Option<SubnetPool<Ipv6Net>>,
    /// The MTU of the containers' interfaces, in bytes. Without it each node computes its own.
    pub mtu: Option<u32>,
    /// Whether nodes get new subnets of it, and containers may be launched on it.
    pub enabled: bool,
    /// What reaches its containers besides members of their groups; none if it does not isolate groups.
    pub groups: Option<Admission>,
    /// Whether containers of other overlays cannot reach its containers.
    pub isolated: bool,
    /// Whether nodes borrow blocks as they need them, instead of having a part each.
    pub lends_blocks: bool,
}

/// A subnet that is divided between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetPool<N> {
    /// The subnet of all nodes together.
    pub subnet: N,
    /// The prefix length of a node's part, or of a block: longer than that of the subnet, and short
    /// enough that each half of the part, or the block, has an address for a container.
    pub prefix: u8,
}

impl OverlayConfig {
    /// Reads a file. Blocks.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_file(path).map_err(|error| ConfigProblem {
            place: path.display().to_string(),
            key: String::new(),
            message: format!("cannot read the file of the overlays: {error}"),
        })?;
        Self::parse(path, &text)
    }

    /// Parses the content of a file; its path is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let document = Document::new(path, text);
        let table = document.parse_json();
        let top = Section::top(&document, &table);
        let config = read(&top);
        top.finish();
        let warnings = document.warnings();
        document.finish()?;
        // Every reason why there is none is a problem.
        let config = config.ok_or_else(|| ConfigProblem {
            place: path.display().to_string(),
            key: String::new(),
            message: "is incomplete".to_owned(),
        })?;
        Ok(Self { warnings, ..config })
    }

    /// What all overlays share, as it is published.
    pub(crate) fn underlay(&self) -> Underlay {
        Underlay {
            vtep_subnet: self.vtep_subnet,
            vtep_subnet6: self.vtep_subnet6,
            vxlan_port: self.vxlan_port,
        }
    }
}

impl OverlayDefinition {
    /// The overlay as it is published.
    pub(crate) fn published(&self) -> Overlay {
        Overlay {
            name: self.name.clone(),
            vni: self.vni,
            subnet: self.subnets.map(|pool| pool.subnet),
            subnet6: self.subnets6.map(|pool| pool.subnet),
            mtu: self.mtu,
            enabled: self.enabled,
            groups: self.groups,
            isolated: self.isolated,
            lends_blocks: self.lends_blocks,
        }
    }

    /// The subnets of both families, each with the prefix length of a node's part.
    pub fn parts(&self) -> impl Iterator<Item = (IpNet, u8)> + use<> {
        self.pools().map(|pool| (pool.subnet, pool.prefix))
    }

    /// The subnets of both families.
    pub(crate) fn pools(&self) -> impl Iterator<Item = SubnetPool<IpNet>> + use<> {
        let v4 = self.subnets.map(|pool| SubnetPool {
            subnet: IpNet::V4(pool.subnet),
            prefix: pool.prefix,
        });
        let v6 = self.subnets6.map(|pool| SubnetPool {
            subnet: IpNet::V6(pool.subnet),
            prefix: pool.prefix,
        });
        v4.into_iter().chain(v6)
    }
}

/// Why a subnet cannot be one of hosts or services, if it cannot.
pub(crate) fn unusable_subnet(subnet: IpNet) -> Option<String> {
    checks::unusable(subnet)
}

/// The network identifier of an overlay that does not name one: the same in every manager.
fn derived_vni(name: &str) -> u32 {
    let digest = Sha256::digest(name);
    let number = u32::from_be_bytes([0, digest[0], digest[1], digest[2]]);
    // Zero is not an identifier.
    number.clamp(1, MAX_VNI)
}

fn read(top: &Section<'_>) -> Option<OverlayConfig> {
    const MASTER_KEYS: [&str; 3] = ["zk", "replicated_log_dir", "replicated_log_timeout"];
    let is_master_file = top.has("network") || MASTER_KEYS.iter().any(|key| top.has(key));
    if !is_master_file {
        return networks(top);
    }
    top.allow(&MASTER_KEYS);
    for key in MASTER_KEYS.into_iter().filter(|key| top.has(key)) {
        let message = "is not used: the manager keeps its state in ZooKeeper, see [zookeeper] in its \
                       configuration, or in state_file in [overlay]";
        top.warning(key, message);
    }
    if !top.has("network") {
        top.problem(
            "network",
            "is missing: an object with vtep_subnet, vtep_mac_oui and overlays",
        );
    }
    let section = top.section("network")?;
    let config = networks(&section);
    section.finish();
    config
}

/// Reads the object of the networks.
fn networks(section: &Section<'_>) -> Option<OverlayConfig> {
    let vtep_subnet = subnet::<Ipv4Net>(section, "vtep_subnet", SUBNET4);
    if !section.has("vtep_subnet") {
        section.problem(
            "vtep_subnet",
            format!("is missing: {SUBNET4}, for the nodes' tunnel endpoints"),
        );
    }
    let vtep_subnet6 = subnet::<Ipv6Net>(section, "vtep_subnet6", SUBNET6);
    let vtep_mac_oui = section.checked("vtep_mac_oui", OUI, oui);
    if !section.has("vtep_mac_oui") {
        section.problem("vtep_mac_oui", format!("is missing: {OUI}"));
    }
    let vxlan_port = section
        .integer("vxlan_port", 1..=u32::from(u16::MAX))
        .and_then(|port| u16::try_from(port).ok());
    let vtep_mtu = section.integer("vtep_mtu", MIN_MTU4..=MAX_MTU);
    let block_rest = section.duration("block_rest", BLOCK_REST);
    if block_rest < MIN_BLOCK_REST {
        let message = "expected a time of at least \"1s\": hosts that have not applied the change yet would \
                       send what is for the block to the node that had it before";
        section.problem("block_rest", message);
    }
    let sections = section.sections("overlays");
    if !section.has("overlays") || section.is_empty_list("overlays") {
        let message = "an array of objects such as {\"name\": \"dcos\", \"subnet\": \"9.0.0.0/8\", \"prefix\": 24}";
        let problem = if section.has("overlays") {
            "is empty"
        } else {
            "is missing"
        };
        section.problem("overlays", format!("{problem}: {message}"));
    }
    let overlays: Vec<PendingOverlay> = sections
        .iter()
        .map(|section| PendingOverlay::read(section, vtep_mtu))
        .collect();
    checks::endpoints(section, vtep_subnet, vtep_subnet6);
    checks::names(&sections, &overlays);
    checks::network_identifiers(&sections, &overlays);
    checks::overlaps(section, &sections, vtep_subnet, vtep_subnet6, &overlays);
    let has_overlay6 = overlays.iter().any(|overlay| overlay.has_subnet6);
    if has_overlay6 && !section.has("vtep_subnet6") {
        let message = format!("is missing, but an overlay has an IPv6 subnet: {SUBNET6}");
        section.problem("vtep_subnet6", message);
    }
    if let Some(mtu) = vtep_mtu
        && mtu < MIN_MTU6
        && has_overlay6
    {
        let message =
            format!("{mtu} is too small: an overlay has an IPv6 subnet, which needs {MIN_MTU6}");
        section.problem("vtep_mtu", message);
    }
    sections.into_iter().for_each(Section::finish);
    Some(OverlayConfig {
        vtep_subnet: vtep_subnet?,
        vtep_subnet6,
        vtep_mac_oui: vtep_mac_oui?,
        vxlan_port: vxlan_port.unwrap_or(VXLAN_PORT),
        block_rest,
        overlays: overlays
            .into_iter()
            .map(PendingOverlay::complete)
            .collect::<Option<_>>()?,
        warnings: vec![],
    })
}

/// An overlay as far as it could be read.
#[allow(clippy::struct_excessive_bools, reason = "each is a key of the file")]
struct PendingOverlay {
    name: Option<String>,
    vni: Option<u32>,
    subnets: Option<SubnetPool<Ipv4Net>>,
    subnets6: Option<SubnetPool<Ipv6Net>>,
    /// The subnets, also those whose prefix is not valid.
    subnet: Option<Ipv4Net>,
    subnet6: Option<Ipv6Net>,
    has_subnet6: bool,
    mtu: Option<u32>,
    enabled: bool,
    groups: Option<Admission>,
    isolated: bool,
    lends_blocks: bool,
}

impl PendingOverlay {
    fn read(section: &Section<'_>, vtep_mtu: Option<u32>) -> Self {
        let name = section.checked("name", NAME, checks::name);
        if !section.has("name") {
            section.problem("name", format!("is missing: {NAME}"));
        }
        let subnet4 = subnet::<Ipv4Net>(section, "subnet", SUBNET4);
        let subnet6 = subnet::<Ipv6Net>(section, "subnet6", SUBNET6);
        if !["subnet", "subnet6"].iter().any(|key| section.has(key)) {
            section.problem(
                "subnet",
                format!("is missing: {SUBNET4}, or subnet6, or both"),
            );
        }
        let lends_blocks = lends_blocks(section);
        let [prefix, prefix6] = if lends_blocks {
            checks::blocks(section, subnet4.map(IpNet::V4), subnet6.map(IpNet::V6))
        } else {
            [
                checks::prefix(section, "subnet", "prefix", subnet4.map(IpNet::V4)),
                checks::prefix(section, "subnet6", "prefix6", subnet6.map(IpNet::V6)),
            ]
        };
        let has_subnet6 = section.has("subnet6");
        let min_mtu = if has_subnet6 { MIN_MTU6 } else { MIN_MTU4 };
        let mtu = section.integer("mtu", min_mtu..=MAX_MTU);
        if let Some((mtu, vtep_mtu)) = mtu.zip(vtep_mtu)
            && mtu > vtep_mtu
        {
            section.problem("mtu", format!("{mtu} is larger than vtep_mtu, {vtep_mtu}"));
        }
        let vni = section.integer("vni", 1..=MAX_VNI);
        let derived = name
            .as_deref()
            .filter(|_| !section.has("vni"))
            .map(derived_vni);
        let pool = |(subnet, prefix)| SubnetPool { subnet, prefix };
        Self {
            name,
            vni: vni.or(derived),
            subnets: subnet4.zip(prefix).map(pool),
            subnets6: subnet6
                .zip(prefix6)
                .map(|(subnet, prefix)| SubnetPool { subnet, prefix }),
            subnet: subnet4,
            subnet6,
            has_subnet6,
            mtu: mtu.or(vtep_mtu),
            enabled: section.boolean("enabled", true),
            groups: admission(section),
            isolated: section.boolean("isolated", false),
            lends_blocks,
        }
    }

    fn complete(self) -> Option<OverlayDefinition> {
        Some(OverlayDefinition {
            name: self.name?,
            vni: self.vni?,
            subnets: self.subnets,
            subnets6: self.subnets6,
            mtu: self.mtu,
            enabled: self.enabled,
            groups: self.groups,
            isolated: self.isolated,
            lends_blocks: self.lends_blocks,
        })
    }
}

/// Whether the addresses of an overlay are lent to nodes in blocks.
fn lends_blocks(section: &Section<'_>) -> bool {
    let ipam = section.checked("ipam", IPAM, |word| {
        Ok(known_word(word, &["node", "cluster"])? == "cluster")
    });
    let lends_blocks = ipam.unwrap_or(false);
    section.allow(&["block"]);
    if !lends_blocks && section.has("block") && (ipam.is_some() || !section.has("ipam")) {
        let message = "needs \"ipam\": \"cluster\": without it each node has one part of the subnet, whose \
                       length is that of prefix";
        section.problem("block", message);
    }
    lends_blocks
}

/// What reaches the containers of an overlay besides members of their groups, if it isolates groups.
fn admission(section: &Section<'_>) -> Option<Admission> {
    let groups = section.boolean("groups", false);
    let admitted = section.words("admit", &["hosts", "mapped-ports"], ADMIT);
    if !groups && section.has("admit") && !section.is_misspelt("groups") {
        let message = "needs \"groups\": true: without groups every address reaches the containers";
        section.problem("admit", message);
    }
    let admission = if section.has("admit") {
        Admission {
            hosts: admitted.contains(&"hosts"),
            mapped_ports: admitted.contains(&"mapped-ports"),
        }
    } else {
        Admission::default()
    };
    groups.then_some(admission)
}

/// A subnet without bits beyond its prefix, of addresses that hosts can have.
fn subnet<N: FromStr + Into<IpNet> + Copy>(
    section: &Section<'_>,
    key: &str,
    expected: &str,
) -> Option<N> {
    let subnet = section.parsed::<N>(key, expected)?;
    match checks::unusable(subnet.into()) {
        None => Some(subnet),
        Some(problem) => {
            section.problem(key, problem);
            None
        }
    }
}

fn oui(text: &str) -> Result<[u8; 3], String> {
    let Mac(bytes) = Mac::try_from(text.to_owned()).map_err(|_| String::new())?;
    let [first, second, third, rest @ ..] = bytes;
    if rest != [0; 3] {
        return Err("the last three bytes are those of each endpoint's address".to_owned());
    }
    if first & 1 != 0 {
        return Err("its lowest bit of the first byte makes it a multicast address".to_owned());
    }
    Ok([first, second, third])
}
