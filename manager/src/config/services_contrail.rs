//! The table `[services.contrail]`: services on the virtual networks of Contrail.

use std::net::Ipv4Addr;

use contrail_mesos_api::config_reader::Section;

use crate::vnc::FqName;

/// How many servers the link-local service may have.
const MAX_SERVERS: usize = 256;
/// How many floating-ip-pools there may be.
const MAX_POOLS: usize = 64;
/// The address of Contrail's own link-local service, metadata.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

const NETWORK: &str = "a virtual network such as \"default-domain:mesos-default:mesos-services\", whose subnets have the \
     addresses of services";
const ADDRESS: &str = "a link-local address such as \"169.254.169.53\"";
const SERVERS: &str = "an IPv4 address of a node whose DNS listens there, such as \"10.84.22.27\"";
const POOL: &str =
    "a floating-ip-pool such as \"default-domain:default-project:__public__:__fip_pool_public__\"";
const VIRTUAL_DNS: &str = "a virtual-DNS such as \"default-domain:mesos\"";

/// Services on the virtual networks of Contrail: the table `[services.contrail]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicesContrailOptions {
    /// The network of the services' addresses. It must exist.
    pub network: FqName,
    /// The pools whose networks may have addresses of services, too; they must exist. Distinct.
    pub floating_ip_pools: Vec<FqName>,
    /// How virtual networks reach the DNS of the nodes.
    pub dns: Option<LinkLocalDns>,
    /// The virtual DNS server that has the names of services, too.
    pub virtual_dns: Option<FqName>,
}

/// A link-local service for the DNS of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkLocalDns {
    /// The address in every virtual network.
    pub address: Ipv4Addr,
    /// The addresses at which nodes' DNS listens; sorted, distinct.
    pub servers: Vec<Ipv4Addr>,
}

/// Reads the table. Reports its problems; none if it cannot be used.
pub(super) fn read(section: &Section<'_>) -> Option<ServicesContrailOptions> {
    let network = section.checked("network", NETWORK, |text| name(text, 3));
    if !section.has("network") {
        section.problem("network", format!("is missing: {NETWORK}"));
    }
    let pools = section.checked_list("floating_ip_pools", POOL, |text| name(text, 4));
    let mut pools = pools.unwrap_or_default();
    pools.sort();
    pools.dedup();
    if pools.len() > MAX_POOLS {
        let message = format!("are too many: at most {MAX_POOLS}");
        section.problem("floating_ip_pools", message);
    }
    let address = section.checked("dns", ADDRESS, |text| match text.parse::<Ipv4Addr>() {
        Ok(METADATA) => Err("Contrail's own metadata service has it".to_owned()),
        Ok(address) if address.is_link_local() => Ok(address),
        _ => Err(String::new()),
    });
    let servers = section.checked_list("dns_servers", SERVERS, |text| {
        match text.parse::<Ipv4Addr>() {
            // The vRouter looks it up in the network of the hosts, where each is another one.
            Ok(address) if address.is_loopback() || address.is_link_local() => {
                Err("other hosts do not reach it".to_owned())
            }
            Ok(address) if !address.is_unspecified() && !address.is_multicast() => Ok(address),
            _ => Err(String::new()),
        }
    });
    let has_servers = section.has("dns_servers") && !section.is_empty_list("dns_servers");
    if section.has("dns") != has_servers {
        let message = "dns and dns_servers go together: the address in virtual networks, and the \
                       addresses at which nodes' DNS listens";
        section.problem("", message);
    }
    if servers
        .as_ref()
        .is_some_and(|servers| servers.len() > MAX_SERVERS)
    {
        let message = format!("are too many: {MAX_SERVERS} are enough for all nodes to share");
        section.problem("dns_servers", message);
    }
    let virtual_dns = section.checked("virtual_dns", VIRTUAL_DNS, |text| name(text, 2));
    let dns = address.zip(servers).map(|(address, mut servers)| {
        servers.sort_unstable();
        servers.dedup();
        LinkLocalDns { address, servers }
    });
    Some(ServicesContrailOptions {
        network: network?,
        floating_ip_pools: pools,
        dns,
        virtual_dns,
    })
}

/// A name with this number of parts.
fn name(text: &str, parts: usize) -> Result<FqName, String> {
    let name: FqName = text.parse().map_err(|_| String::new())?;
    if name.parts().len() == parts {
        Ok(name)
    } else {
        Err(format!("expected {parts} parts with colons between them"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use contrail_mesos_api::config_reader::Document;

    use super::*;

    fn parse(table: &str) -> Result<Option<ServicesContrailOptions>, Vec<String>> {
        let text = format!("[contrail]\n{table}");
        let document = Document::new(Path::new("m.toml"), &text);
        let parsed = document.parse();
        let top = Section::top(&document, &parsed);
        let options = top.section("contrail").and_then(|section| {
            let options = read(&section);
            section.finish();
            options
        });
        top.finish();
        let problems = document.finish();
        problems
            .map(|()| options)
            .map_err(|error| error.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn table_is_read() {
        let options = parse("network = \"default-domain:p:services\"")
            .unwrap()
            .unwrap();
        assert_eq!(options.network.to_string(), "default-domain:p:services");
        assert_eq!((options.dns, options.virtual_dns), (None, None));
        let options = parse(
            "network = \"d:p:n\"\ndns = \"169.254.169.53\"\nvirtual_dns = \"d:mesos\"\n\
             floating_ip_pools = [\"d:p:out:pool\", \"d:p:out:pool\"]\n\
             dns_servers = [\"10.0.0.2\", \"10.0.0.1\", \"10.0.0.2\"]\n",
        );
        let options = options.unwrap().unwrap();
        let pools: Vec<String> = options
            .floating_ip_pools
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(pools, ["d:p:out:pool"]);
        let dns = options.dns.unwrap();
        assert_eq!(dns.address.to_string(), "169.254.169.53");
        assert_eq!(
            dns.servers,
            ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<Ipv4Addr>().unwrap())
        );
        assert_eq!(options.virtual_dns.unwrap().to_string(), "d:mesos");
    }

    #[test]
    fn table_is_validated() {
        let network = "network = \"d:p:n\"\n";
        for (table, key) in [
            (String::new(), "contrail.network"),
            ("network = \"services\"".to_owned(), "contrail.network"),
            (format!("{network}dns = \"169.254.169.53\""), "contrail"),
            (format!("{network}dns_servers = [\"10.0.0.1\"]"), "contrail"),
            (
                format!("{network}dns = \"169.254.169.53\"\ndns_servers = []"),
                "contrail",
            ),
            (
                format!("{network}dns = \"10.0.0.1\"\ndns_servers = [\"10.0.0.1\"]"),
                "contrail.dns",
            ),
            (
                format!("{network}dns = \"169.254.169.254\"\ndns_servers = [\"10.0.0.1\"]"),
                "contrail.dns",
            ),
            (
                format!("{network}dns = \"169.254.169.53\"\ndns_servers = [\"127.0.0.1\"]"),
                "contrail.dns_servers",
            ),
            (
                format!("{network}virtual_dns = \"mesos\""),
                "contrail.virtual_dns",
            ),
            (
                format!("{network}virtualdns = \"d:mesos\""),
                "contrail.virtualdns",
            ),
        ] {
            let problems = parse(&table).unwrap_err();
            assert_eq!(problems.len(), 1, "{table}: {problems:?}");
            assert!(
                problems[0].contains(&format!("{key}:")),
                "{table}: {problems:?}"
            );
        }
    }
}
