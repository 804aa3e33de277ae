//! The table `[node.dns]`: the DNS server of the node daemon.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use contrail_mesos_api::config_reader::Section;
use ipnet::IpNet;

/// The port of DNS.
pub const DNS_PORT: u16 = 53;
/// The most servers of one list.
const MAX_SERVERS: usize = 16;
/// The most domains with servers of their own.
const MAX_DOMAINS: usize = 256;
/// The longest domain, in bytes.
const MAX_DOMAIN_BYTES: usize = 253;
const SERVER: &str =
    "an address, or an address and a port, such as \"192.0.2.53\" or \"[2001:db8::53]:5353\"";
/// The domains that the daemon answers itself.
const OWN_DOMAINS: [&str; 3] = ["thisdcos.directory", "thisdcos.global", "localhost"];

/// How the DNS server works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServer {
    /// Whether it runs. Without it, it runs if the managers publish services.
    pub enabled: Option<bool>,
    /// Where it listens besides the addresses that the managers publish.
    pub listen: Vec<SocketAddr>,
    /// Who may ask it besides this host, its containers and the cluster's overlays.
    pub allow: Vec<IpNet>,
    /// The servers that answer what it does not answer itself; none for those of the host.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// The servers of single domains, by the domain in lower case. The longest one wins.
    pub forward: BTreeMap<String, Vec<SocketAddr>>,
}

pub(super) fn read(section: Section<'_>) -> DnsServer {
    let enabled = section
        .has("enabled")
        .then(|| section.boolean("enabled", true));
    let listen = section
        .checked_list("listen", SERVER, |text| {
            let address = server(text)?;
            let ip = address.ip();
            if ip.is_unspecified() || ip.is_multicast() {
                return Err("write an address of this host".to_owned());
            }
            Ok(address)
        })
        .unwrap_or_default();
    let allow = section
        .parsed_list("allow", "a subnet such as \"10.0.0.0/8\"")
        .unwrap_or_default();
    let upstreams = servers(&section, "upstreams");
    let forward = section.section("forward").map(forward).unwrap_or_default();
    section.finish();
    DnsServer {
        enabled,
        listen,
        allow,
        upstreams,
        forward,
    }
}

/// A server: its port is that of DNS unless it has one.
fn server(text: &str) -> Result<SocketAddr, String> {
    let address = text
        .parse()
        .or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT)));
    match address {
        Ok(address) if address.port() == 0 => Err("the port 0 is not possible".to_owned()),
        Ok(address) => Ok(address),
        Err(_) => Err(String::new()),
    }
}

fn servers(section: &Section<'_>, key: &str) -> Option<Vec<SocketAddr>> {
    let servers = section.checked_list(key, SERVER, server)?;
    if servers.is_empty() && section.is_empty_list(key) {
        section.problem(key, "write at least one server, or leave the key out");
    } else if servers.len() > MAX_SERVERS {
        section.problem(key, format!("there are more than {MAX_SERVERS} servers"));
    }
    Some(servers)
}

fn forward(section: Section<'_>) -> BTreeMap<String, Vec<SocketAddr>> {
    let mut forward = BTreeMap::new();
    let keys: Vec<&str> = section.keys().collect();
    if keys.len() > MAX_DOMAINS {
        let message = format!("there are more than {MAX_DOMAINS} domains");
        section.problem("", message);
    }
    for key in keys {
        let Some(servers) = servers(&section, key) else {
            continue;
        };
        match domain(key) {
            Ok(domain) => {
                forward.insert(domain, servers);
            }
            Err(problem) => section.problem(key, problem),
        }
    }
    section.finish();
    forward
}

/// A domain in lower case, without a final dot.
fn domain(text: &str) -> Result<String, String> {
    let domain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if domain.len() > MAX_DOMAIN_BYTES || !domain.split('.').all(is_label) {
        return Err("a domain such as \"corp.example\" is expected".to_owned());
    }
    let is_below = |own: &str| {
        domain == own
            || domain
                .strip_suffix(own)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    match OWN_DOMAINS.into_iter().find(|own| is_below(own)) {
        Some(own) => Err(format!(
            "contrail-mesos-node answers all names of {own} itself; remove this one"
        )),
        None => Ok(domain),
    }
}
