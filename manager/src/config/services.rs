//! The table `[services]`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use contrail_mesos_api::cluster::ServiceSettings;
use contrail_mesos_api::config_reader::Section;
use ipnet::IpNet;

use super::{OverlayOptions, ServicesContrailOptions, services_contrail};
use crate::overlay::unusable_subnet;

/// Where the addresses of services are kept if there is no ZooKeeper.
const STATE_FILE: &str = "/var/lib/contrail-mesos-manager/services.json";
/// For tests between networks (RFC 2544): never announced in the internet.
const RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 16);
/// A unique local prefix that was chosen at random.
const RANGE6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd4a, 0x9c1e, 0x57b2, 0, 0, 0, 0, 0), 112);
/// The prefixes that a range may have: neither a part of the internet nor too small for a few services.
const PREFIXES: (u8, u8) = (8, 28);
const PREFIXES6: (u8, u8) = (48, 124);
const GRACE: Duration = Duration::from_hours(1);
/// The most names of routed networks.
const MAX_ROUTED_NETWORKS: usize = 1000;

/// Services: the table `[services]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicesOptions {
    /// The ranges of named services' addresses: at most one of each family, and at least one.
    pub ranges: Vec<IpNet>,
    /// How long an address stays reserved for a name after the last backend.
    pub grace: Duration,
    /// The bridge networks between whose hosts there are routes.
    pub routed_networks: BTreeSet<String>,
    /// The file with the addresses, if there is no ZooKeeper.
    pub state_file: PathBuf,
    /// Services on the virtual networks of Contrail.
    pub contrail: Option<ServicesContrailOptions>,
}

impl Default for ServicesOptions {
    fn default() -> Self {
        let (v4, v6) = (RANGE.0.into(), RANGE6.0.into());
        let ranges = [(v4, RANGE.1), (v6, RANGE6.1)];
        Self {
            ranges: ranges
                .into_iter()
                .map(|(address, prefix)| IpNet::new_assert(address, prefix))
                .collect(),
            grace: GRACE,
            routed_networks: BTreeSet::new(),
            state_file: PathBuf::from(STATE_FILE),
            contrail: None,
        }
    }
}

impl ServicesOptions {
    /// What is published of them. Each node answers DNS queries at the first host address of a range.
    pub(crate) fn settings(&self) -> ServiceSettings {
        let dns = self.ranges.iter().filter_map(|range| dns_address(*range));
        ServiceSettings {
            dns: dns.collect(),
            ranges: self.ranges.clone(),
        }
    }
}

/// The first host address of a range.
fn dns_address(range: IpNet) -> Option<IpAddr> {
    match range.network() {
        IpAddr::V4(network) => {
            let number = u32::from(network).checked_add(1)?;
            Some(Ipv4Addr::from(number).into())
        }
        IpAddr::V6(network) => {
            let number = u128::from(network).checked_add(1)?;
            Some(Ipv6Addr::from(number).into())
        }
    }
}

/// The table, if it is there.
pub(super) fn read(top: &Section<'_>) -> Option<ServicesOptions> {
    let section = top.section("services")?;
    let default = ServicesOptions::default();
    let mut ranges = vec![];
    for (key, known) in ["range", "range6"].into_iter().zip(default.ranges) {
        let expected = format!("a subnet such as \"{known}\", or \"none\"");
        let range = section.checked(key, &expected, |text| match text {
            "none" => Ok(None),
            text => range(text, known).map(Some),
        });
        ranges.extend(range.unwrap_or(Some(known)));
    }
    if ranges.is_empty() {
        let message = "is \"none\" as well as range6: named services need addresses of one family";
        section.problem("range", message);
    }
    let state_file = section
        .text("state_file", "a file that the manager creates")
        .map_or(default.state_file, PathBuf::from);
    if !state_file.is_absolute() || state_file.file_name().is_none() {
        section.problem("state_file", "expected an absolute path of a file");
    }
    if top.has("zookeeper") && section.has("state_file") {
        let message = "is not used: with [zookeeper] the state is there";
        section.warning("state_file", message);
    }
    let expected = "the name of a network as frameworks write it, such as \"dcos\"";
    let routed: Vec<String> = section
        .checked_list("routed_networks", expected, |text| {
            if text.is_empty() || text.len() > 255 || text.contains(char::is_control) {
                return Err(String::new());
            }
            Ok(text.to_owned())
        })
        .unwrap_or_default();
    if routed.len() > MAX_ROUTED_NETWORKS {
        let message = format!("has more than {MAX_ROUTED_NETWORKS} names");
        section.problem("routed_networks", message);
    }
    let contrail = section.section("contrail").and_then(|contrail| {
        if !top.has("vnc") && !top.is_misspelt("vnc") {
            let message = "needs a table [vnc]: the objects of services are written there";
            section.problem("contrail", message);
        }
        let options = services_contrail::read(&contrail);
        contrail.finish();
        options
    });
    let options = ServicesOptions {
        ranges,
        contrail,
        grace: section.duration("grace", GRACE),
        routed_networks: routed.into_iter().collect(),
        state_file,
    };
    section.finish();
    if !top.has("mesos") && !top.is_misspelt("mesos") {
        let message = "needs a table [mesos]: services come from the tasks of Mesos";
        top.problem("services", message);
    }
    Some(options)
}

/// A range of the same family as the known one.
fn range(text: &str, known: IpNet) -> Result<IpNet, String> {
    let range: IpNet = text.parse().map_err(|_| String::new())?;
    let (shortest, longest) = match (range, known) {
        (IpNet::V4(_), IpNet::V4(_)) => PREFIXES,
        (IpNet::V6(_), IpNet::V6(_)) => PREFIXES6,
        _ => return Err("it is of the other family".to_owned()),
    };
    if !(shortest..=longest).contains(&range.prefix_len()) {
        return Err(format!(
            "its prefix has to be from /{shortest} to /{longest}"
        ));
    }
    match unusable_subnet(range) {
        Some(problem) => Err(problem),
        None => Ok(range),
    }
}

/// Reports ranges that overlap subnets of the overlays: traffic to one of both would go astray.
pub(super) fn check(
    top: &Section<'_>,
    services: Option<&ServicesOptions>,
    overlay: Option<&OverlayOptions>,
) {
    let (Some(services), Some(overlay)) = (services, overlay) else {
        return;
    };
    let networks = &overlay.networks;
    let vteps = [
        Some(IpNet::V4(networks.vtep_subnet)),
        networks.vtep_subnet6.map(IpNet::V6),
    ];
    let vteps = vteps.into_iter().flatten();
    let mut subnets: Vec<(String, IpNet)> = vteps
        .map(|subnet| ("the tunnel endpoints".to_owned(), subnet))
        .collect();
    for overlay in &networks.overlays {
        let parts = overlay.parts();
        subnets.extend(parts.map(|(subnet, _)| (format!("the overlay {}", overlay.name), subnet)));
    }
    for range in &services.ranges {
        for (what, subnet) in &subnets {
            if range.contains(subnet) || subnet.contains(range) {
                top.problem(
                    "services",
                    format!("the range {range} overlaps {subnet} of {what}; take another range"),
                );
            }
        }
    }
}

/// The file with the terms of revisions of a manager without overlays: beside that of the services.
pub(crate) fn term_file(services: &ServicesOptions) -> PathBuf {
    let directory = services.state_file.parent().unwrap_or(Path::new("/"));
    directory.join("overlay.json")
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const MESOS: &str = "[mesos]\nmasters = \"a:5050\"\n";

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        Config::parse(Path::new("m.toml"), text)
            .map_err(|error| error.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn table_alone_is_enough_besides_mesos() {
        let config = parse(&format!("[services]\n{MESOS}")).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert!(config.vnc.is_none() && config.overlay.is_none() && config.follow.is_some());
        let services = config.services.unwrap();
        assert_eq!(services, ServicesOptions::default());
        let settings = services.settings();
        let shown: Vec<String> = settings.ranges.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["198.18.0.0/16", "fd4a:9c1e:57b2::/112"]);
        let shown: Vec<String> = settings.dns.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["198.18.0.1", "fd4a:9c1e:57b2::1"]);
        assert!(
            parse("[vnc]\nservers = [\"a\"]")
                .unwrap()
                .services
                .is_none()
        );
    }

    #[test]
    fn keys_are_read() {
        let text = format!(
            "[services]\nrange = \"10.9.0.0/20\"\nrange6 = \"none\"\ngrace = \"5m\"\n\
             routed_networks = [\"a\", \"b\", \"a\"]\nstate_file = \"/s/s.json\"\n{MESOS}"
        );
        let services = parse(&text).unwrap().services.unwrap();
        let expected = ServicesOptions {
            contrail: None,
            ranges: vec!["10.9.0.0/20".parse().unwrap()],
            grace: Duration::from_mins(5),
            routed_networks: ["a", "b"].map(str::to_owned).into(),
            state_file: PathBuf::from("/s/s.json"),
        };
        assert_eq!(services, expected);
        assert_eq!(term_file(&services), Path::new("/s/overlay.json"));
        let text = format!("{text}[zookeeper]\nservers = \"zk://a:1/b\"\n");
        let warnings = parse(&text).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].key, "services.state_file");
    }

    #[test]
    fn all_problems_are_reported_with_their_lines() {
        let text = format!(
            "[services]\nrange = \"10.0.0.0/4\"\nrange6 = \"10.0.0.0/8\"\ngrace = 1\n\
             routed_networks = [\"\", 3]\nstate_file = \"x\"\nranges = []\n{MESOS}"
        );
        let problems = parse(&text).unwrap_err();
        for (line, expected) in [
            (2, "services.range: expected a subnet"),
            (3, "the other family"),
            (4, "services.grace: expected a duration"),
            (5, "services.routed_networks: expected"),
            (6, "services.state_file: expected an absolute path"),
            (7, "services.ranges"),
        ] {
            let is_there = problems.iter().any(|problem| {
                problem.starts_with(&format!("m.toml:{line}:")) && problem.contains(expected)
            });
            assert!(is_there, "{expected}: {problems:#?}");
        }
        for (table, expected) in [
            ("[services]", "services: needs a table [mesos]"),
            ("services = 1", "services: expected a table"),
        ] {
            let problems = parse(table).unwrap_err().concat();
            assert!(problems.contains(expected), "{table}: {problems}");
        }
        for (keys, expected) in [
            ("range = \"none\"\nrange6 = \"none\"", "of one family"),
            ("range = \"198.18.0.1/16\"", "198.18.0.0/16"),
            ("range = \"127.0.0.0/8\"", "loopback"),
            ("range = \"224.0.0.0/8\"", "multicast"),
            ("range = \"198.18.0.0/30\"", "from /8 to /28"),
            ("range6 = \"fe80::/112\"", "link-local"),
            ("range6 = \"fd00::/32\"", "from /48 to /124"),
            ("range = \"x\"", "expected a subnet"),
        ] {
            let problems = parse(&format!("[services]\n{keys}\n{MESOS}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{keys}: {problems:?}");
            assert!(problems[0].contains(expected), "{keys}: {problems:?}");
        }
    }

    #[test]
    fn range_of_an_overlay_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overlay.json");
        std::fs::write(
            &path,
            r#"{"vtep_subnet": "198.18.128.0/24", "vtep_mac_oui": "70:B3:D5:00:00:00",
            "overlays": [{"name": "dcos", "subnet": "198.18.0.0/17", "prefix": 24}]}"#,
        )
        .unwrap();
        let text = format!("[overlay]\nfile = {path:?}\n[services]\n{MESOS}");
        let problems = parse(&text).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("the tunnel endpoints"), "{problems:?}");
        assert!(problems[1].contains("the overlay dcos"), "{problems:?}");
        let text = text.replace("[services]\n", "[services]\nrange = \"10.9.0.0/16\"\n");
        assert!(parse(&text).is_ok());
    }
}
