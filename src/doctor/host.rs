//! Settings of the host, its other firewalls, MTUs and resolver.
//!
//! What is read and what it means are apart: the functions that decide get all they need.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;

use contrail_mesos_api::text::Quoted;
use nix::unistd::{AccessFlags, access};

use super::Check;
use crate::config::{BridgeNetwork, Config, NetworkProvider};
use crate::isolator::host_resolver;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::nft::firewall::{DroppingChain, ForwardDrop, dropping_chains};
use crate::net::{links, routes, sysctl};
use crate::provider::overlay::OverlayNetworks;

/// The entries of the neighbour table that are left to others than containers.
const OTHER_NEIGHBOURS: u64 = 124;

/// A link by which the host has a default route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Uplink {
    name: String,
    mtu: u32,
    rp_filter: Option<u64>,
}

/// A network on a bridge of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BridgeSize {
    network: String,
    bridge: String,
    mtu: u32,
    /// The IPv4 addresses that containers can have.
    addresses: u64,
    has_ipv6: bool,
}

/// Blocks on the file system and on requests to the kernel.
pub(super) fn checks(config: Option<&Config>) -> Vec<Check> {
    let networks = config.map(bridges).unwrap_or_default();
    let mut checks = forwarding(
        number("net/ipv4/ip_forward"),
        number("net/ipv4/conf/default/forwarding"),
        access("/proc/sys/net/ipv4/ip_forward", AccessFlags::W_OK).is_ok(),
    );
    checks.extend(neighbour_tables(
        number("net/ipv4/neigh/default/gc_thresh3"),
        number("net/ipv6/neigh/default/gc_thresh3"),
        &networks,
    ));
    match uplinks() {
        Ok(uplinks) => {
            checks.push(reverse_path_filter(
                number("net/ipv4/conf/all/rp_filter"),
                number("net/ipv4/conf/default/rp_filter"),
                &uplinks,
            ));
            checks.extend(mtus(&uplinks, &networks));
        }
        Err(error) => checks.push(Check::failure(
            "mtu",
            format!("the interfaces and routes of the host cannot be read: {error}"),
            "run doctor as root, on Linux 4.20 or later",
        )),
    }
    match dropping_chains() {
        Ok(chains) => {
            let bridge = networks.first().map(|network| network.bridge.as_str());
            let has_docker = config.is_some_and(|config| config.node.docker.is_some());
            checks.extend(firewalls(&chains, bridge, has_docker));
            checks.push(bridge_filter(
                ["ip", "ip6"]
                    .map(|family| number(&format!("net/bridge/bridge-nf-call-{family}tables"))),
                !chains.is_empty(),
            ));
        }
        Err(error) => checks.push(Check::failure(
            "firewall",
            format!("the rules of other programs cannot be read: {error}"),
            "run doctor as root; see the check kernel-nftables",
        )),
    }
    checks.extend(legacy_iptables(["ip", "ip6"].map(|family| {
        fs::read_to_string(format!("/proc/net/{family}_tables_names")).unwrap_or_default()
    })));
    // With a valid configuration, its check says what containers get.
    if config.is_none() {
        checks.push(resolver());
    } else {
        let text = "see the checks network for what containers get as /etc/resolv.conf";
        checks.push(Check::ok("resolver", text));
    }
    checks
}

fn number(setting: &str) -> Option<u64> {
    sysctl::get(setting)?.parse().ok()
}

fn bridges(config: &Config) -> Vec<BridgeSize> {
    let overlays = OverlayNetworks::new(&config.state_dir);
    let networks = config.networks.iter();
    networks
        .filter_map(|network| match &network.provider {
            NetworkProvider::Bridge(bridge) => Some(BridgeSize::of(&network.name, bridge)),
            NetworkProvider::Overlay(overlay) => {
                let bridge = overlays.bridge_network(overlay).ok()?;
                Some(BridgeSize::of(&network.name, &bridge))
            }
            _ => None,
        })
        .collect()
}

impl BridgeSize {
    fn of(network: &str, bridge: &BridgeNetwork) -> Self {
        let addresses = bridge.v4.as_ref().map_or(0, |subnet| {
            let [first, last] = [subnet.first, subnet.last].map(Ipv4Addr::to_bits);
            u64::from(last.saturating_sub(first)) + 1
        });
        Self {
            network: network.to_owned(),
            bridge: bridge.bridge.clone(),
            mtu: bridge.mtu,
            addresses,
            has_ipv6: bridge.v6.is_some(),
        }
    }
}

fn uplinks() -> Result<BTreeSet<Uplink>, NetlinkError> {
    let mut socket = NetlinkSocket::route()?;
    let links = links::all(&mut socket)?;
    let defaults = routes::all(&mut socket)?.into_iter();
    let indexes: BTreeSet<u32> = defaults
        .filter(|route| route.destination.prefix_len() == 0)
        .flat_map(|route| route.links)
        .collect();
    let uplinks = links
        .into_iter()
        .filter(|link| indexes.contains(&link.index));
    Ok(uplinks
        .map(|link| Uplink {
            rp_filter: number(&format!("net/ipv4/conf/{}/rp_filter", link.name)),
            name: link.name,
            mtu: link.mtu,
        })
        .collect())
}

fn forwarding(all: Option<u64>, default: Option<u64>, is_writable: bool) -> Vec<Check> {
    let name = "sysctl-forwarding";
    let mut checks = vec![match all {
        Some(0) if !is_writable => Check::failure(
            name,
            "net.ipv4.ip_forward is 0, and cannot be set because /proc/sys is not writable",
            "run sysctl -w net.ipv4.ip_forward=1, or mount /proc/sys writable for the agent",
        ),
        Some(0) => Check::ok(
            name,
            "net.ipv4.ip_forward is 0; it is set to 1 for the first container of a bridge network",
        ),
        _ => Check::ok(name, "net.ipv4.ip_forward is 1"),
    }];
    if all == Some(1) && default == Some(0) {
        checks.push(Check::warning(
            name,
            "net.ipv4.conf.default.forwarding is 0: interfaces that appear later, such as a VLAN or a tunnel, \
             forward nothing to containers",
            "run sysctl -w net.ipv4.conf.default.forwarding=1, and correct the file in /etc/sysctl.d that sets it",
        ));
    }
    checks
}

fn reverse_path_filter(
    all: Option<u64>,
    default: Option<u64>,
    uplinks: &BTreeSet<Uplink>,
) -> Check {
    let name = "sysctl-rp-filter";
    // The kernel takes the larger one.
    let effective = |own: Option<u64>| own.max(all).unwrap_or(0);
    let strict: Vec<_> = uplinks
        .iter()
        .filter(|uplink| effective(uplink.rp_filter) == 1)
        .map(|uplink| Quoted(uplink.name.as_bytes()).to_string())
        .collect();
    if uplinks.len() > 1 && !strict.is_empty() {
        return Check::warning(
            name,
            format!(
                "rp_filter is strict (1) at {}, and the host has {} interfaces with default routes: packets of \
                 containers that come back by another one are dropped",
                strict.join(", "),
                uplinks.len()
            ),
            "run sysctl -w net.ipv4.conf.all.rp_filter=2 (loose), and put it into /etc/sysctl.d",
        );
    }
    let word = match effective(default) {
        0 => "off (0)",
        1 => "strict (1)",
        _ => "loose (2)",
    };
    Check::ok(
        name,
        format!(
            "rp_filter of new interfaces is {word}, which bridge and overlay networks work with"
        ),
    )
}

fn neighbour_tables(v4: Option<u64>, v6: Option<u64>, networks: &[BridgeSize]) -> Vec<Check> {
    let name = "neighbour-table";
    let families = [("ipv4", "IPv4", v4), ("ipv6", "IPv6", v6)];
    let checks = families.into_iter().filter_map(|(key, family, limit)| {
        // As many containers have an IPv6 address as have an IPv4 address of the same network.
        let networks = networks.iter();
        let addresses: u64 = networks
            .filter(|network| family == "IPv4" || network.has_ipv6)
            .map(|network| network.addresses)
            .sum();
        if addresses == 0 {
            return None;
        }
        let setting = format!("net.{key}.neigh.default.gc_thresh3");
        let needed = addresses.saturating_add(OTHER_NEIGHBOURS);
        Some(match limit {
            None => Check::warning(
                name,
                format!("{setting} cannot be read in this network namespace"),
                format!("see to it in the first network namespace: containers may take {needed} entries"),
            ),
            Some(limit) if limit < needed => Check::warning(
                name,
                format!(
                    "the neighbour table of {family} has room for {limit} entries, and the networks have \
                     {addresses} addresses for containers: with so many containers, new ones are not reached"
                ),
                format!(
                    "run sysctl -w {setting}={needed}, unless there will never be more than {} containers",
                    limit.saturating_sub(OTHER_NEIGHBOURS)
                ),
            ),
            Some(limit) => Check::ok(
                name,
                format!(
                    "the neighbour table of {family} has room for {limit} entries, enough for {addresses} addresses"
                ),
            ),
        })
    });
    checks.collect()
}

fn firewalls(chains: &[DroppingChain], bridge: Option<&str>, has_docker: bool) -> Vec<Check> {
    let name = "firewall";
    if chains.is_empty() {
        let text = "no other nftables chain drops forwarded packets";
        return vec![Check::ok(name, text)];
    }
    let bridge = bridge.unwrap_or("BRIDGE");
    let checks = chains.iter().map(|chain| {
        let what = match chain.drop {
            ForwardDrop::Policy => "by its policy",
            ForwardDrop::Rule => "by a rule",
        };
        let text = format!(
            "the chain {} of the table {} {} drops forwarded packets {what}, and what contrail-mesos accepts \
             does not overrule it",
            Quoted(chain.chain.as_bytes()),
            chain.family,
            Quoted(chain.table.as_bytes())
        );
        let is_dockers = chain.table == "filter" && chain.chain == "FORWARD";
        if is_dockers && has_docker {
            return Check::ok(
                name,
                format!("{text}; contrail-mesos-node accepts packets of containers there (node.docker)"),
            );
        }
        let remedy = format!(
            "accept there what comes from and goes to the bridges of containers (iifname \"{bridge}\" accept, \
             oifname \"{bridge}\" accept); beside Docker, set node.docker, and contrail-mesos-node does it"
        );
        if chain.rules == 0 {
            let text = format!("{text}; no rule of it accepts anything before");
            Check::failure(name, text, remedy)
        } else {
            let text = format!("{text}, unless one of the {} rules before accepts them", chain.rules);
            Check::warning(name, text, remedy)
        }
    });
    checks.collect()
}

/// Rules of the older programs of iptables are not in nftables.
fn legacy_iptables(tables: [String; 2]) -> Vec<Check> {
    let programs = ["iptables-legacy", "ip6tables-legacy"];
    let checks = programs
        .into_iter()
        .zip(tables)
        .filter_map(|(program, names)| {
            let has_filter = names.lines().any(|name| name == "filter");
            has_filter.then(|| {
                Check::warning(
                    "firewall",
                    format!("this kernel also has rules of {program}, which are not checked"),
                    format!("see {program} -S FORWARD: what it drops, containers do not get"),
                )
            })
        });
    checks.collect()
}

fn bridge_filter(settings: [Option<u64>; 2], has_drops: bool) -> Check {
    let name = "firewall-br-netfilter";
    let is_on = settings.contains(&Some(1));
    match (is_on, has_drops) {
        (true, true) => Check::warning(
            name,
            "br_netfilter is on: frames between containers of one bridge pass the host's forward chains as well, \
             some of which drop (see firewall)",
            "accept in these chains what stays on a bridge, or run sysctl -w net.bridge.bridge-nf-call-iptables=0 \
             net.bridge.bridge-nf-call-ip6tables=0, which Kubernetes and Docker may set again",
        ),
        (true, false) => Check::ok(name, "br_netfilter is on, and no forward chain drops"),
        (false, _) => Check::ok(
            name,
            "br_netfilter is off: bridges pass frames without the host's rules",
        ),
    }
}

fn mtus(uplinks: &BTreeSet<Uplink>, networks: &[BridgeSize]) -> Vec<Check> {
    let name = "mtu";
    let Some(uplink) = uplinks.iter().min_by_key(|uplink| uplink.mtu) else {
        return vec![Check::warning(
            name,
            "the host has no default route: containers reach nothing outside of it, and MTUs cannot be compared",
            "configure a default route, unless containers are to reach this host alone",
        )];
    };
    let shown = Quoted(uplink.name.as_bytes());
    let mut checks: Vec<_> = networks
        .iter()
        .filter(|network| network.mtu > uplink.mtu)
        .map(|network| {
            Check::warning(
                name,
                format!(
                    "the network {} has an MTU of {}, and the interface {shown} of the default route one of {}: large \
                     packets to outside depend on ICMP messages that firewalls often drop",
                    Quoted(network.network.as_bytes()),
                    network.mtu,
                    uplink.mtu
                ),
                format!("set mtu = {} for the network", uplink.mtu),
            )
        })
        .collect();
    if checks.is_empty() {
        let text = format!(
            "no network has a larger MTU than the {} of {shown}",
            uplink.mtu
        );
        checks.push(Check::ok(name, text));
    }
    checks
}

fn resolver() -> Check {
    let name = "resolver";
    match host_resolver::read() {
        Ok(resolver) => match resolver.problem {
            None => Check::ok(name, "containers reach the host's name servers"),
            Some(problem) => {
                Check::warning(name, problem, "set nameservers in [dns] or [network.dns]")
            }
        },
        Err(error) => Check::warning(
            name,
            format!("/etc/resolv.conf cannot be read: {error}"),
            "create it, or set nameservers in [dns]",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn network(addresses: u64, mtu: u32) -> BridgeSize {
        BridgeSize {
            network: "blue".to_owned(),
            bridge: "blue0".to_owned(),
            mtu,
            addresses,
            has_ipv6: true,
        }
    }

    fn uplink(name: &str, mtu: u32, rp_filter: u64) -> Uplink {
        Uplink {
            name: name.to_owned(),
            mtu,
            rp_filter: Some(rp_filter),
        }
    }

    fn severities(checks: &[Check]) -> Vec<Severity> {
        let is_explained =
            |check: &Check| check.remedy.is_some() == (check.severity != Severity::Ok);
        assert!(checks.iter().all(is_explained), "{checks:?}");
        checks.iter().map(|check| check.severity).collect()
    }

    #[test]
    fn forwarding_must_be_settable_and_inherited() {
        use Severity::{Failure, Ok, Warning};
        for (all, default, is_writable, expected) in [
            (0, 0, true, vec![Ok]),
            (0, 0, false, vec![Failure]),
            (1, 1, false, vec![Ok]),
            (1, 0, true, vec![Ok, Warning]),
        ] {
            let checks = forwarding(Some(all), Some(default), is_writable);
            assert_eq!(severities(&checks), expected, "{checks:?}");
        }
    }

    #[test]
    fn strict_reverse_path_filter_matters_with_several_uplinks() {
        use Severity::{Ok, Warning};
        let one: BTreeSet<_> = [uplink("eth0", 1500, 1)].into();
        let two: BTreeSet<_> = [uplink("eth0", 1500, 0), uplink("eth1", 1500, 0)].into();
        for (all, uplinks, expected) in [
            (1, &one, Ok),
            (0, &two, Ok),
            (1, &two, Warning),
            (2, &two, Ok),
        ] {
            let check = reverse_path_filter(Some(all), Some(1), uplinks);
            assert_eq!(check.severity, expected, "{check:?}");
        }
    }

    #[test]
    fn neighbour_table_must_hold_the_networks() {
        use Severity::{Ok, Warning};
        let networks = [network(253, 1500), network(1021, 1500)];
        let checks = neighbour_tables(Some(1024), None, &networks);
        assert_eq!(severities(&checks), [Warning, Warning]);
        let remedy = checks[0].remedy.as_deref().unwrap_or_default();
        assert!(remedy.contains("gc_thresh3=1398"), "{remedy}");
        let checks = neighbour_tables(Some(1398), Some(1398), &networks);
        assert_eq!(severities(&checks), [Ok, Ok]);
        assert_eq!(neighbour_tables(Some(1), Some(1), &[]), []);
    }

    #[test]
    fn drops_of_others_are_failures_unless_something_is_accepted() {
        use Severity::{Failure, Ok, Warning};
        let chain = |rules| DroppingChain {
            family: "ip",
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            drop: ForwardDrop::Policy,
            rules,
        };
        for (chains, has_docker, expected) in [
            (vec![], false, Ok),
            (vec![chain(0)], false, Failure),
            (vec![chain(3)], false, Warning),
            (vec![chain(3)], true, Ok),
        ] {
            let checks = firewalls(&chains, Some("blue0"), has_docker);
            assert_eq!(severities(&checks), [expected], "{checks:?}");
        }
        let tables = ["nat\nfilter\n".to_owned(), String::new()];
        assert_eq!(severities(&legacy_iptables(tables)), [Warning]);
        for (settings, has_drops, expected) in [
            ([Some(1), None], true, Warning),
            ([Some(1), Some(1)], false, Ok),
            ([Some(0), None], true, Ok),
            ([None, None], true, Ok),
        ] {
            assert_eq!(bridge_filter(settings, has_drops).severity, expected);
        }
    }

    #[test]
    fn networks_are_compared_with_the_smallest_uplink() {
        use Severity::{Ok, Warning};
        let uplinks = [uplink("eth0", 1500, 0), uplink("eth1", 1400, 0)].into();
        let checks = mtus(&uplinks, &[network(1, 1400)]);
        assert_eq!(severities(&checks), [Ok]);
        let checks = mtus(&uplinks, &[network(1, 1400), network(1, 1500)]);
        assert_eq!(severities(&checks), [Warning]);
        assert!(checks[0].text.contains("eth1"), "{checks:?}");
        assert_eq!(severities(&mtus(&BTreeSet::new(), &[])), [Warning]);
    }
}
