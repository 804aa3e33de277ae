//! The test networks in the API server, and rules for security groups.

use anyhow::{Context as _, Result};
use contrail_mesos_manager::vnc::{
    Domain, FqName, IpamSubnet, NetworkIpam, NetworkIpamSubnets, Object as _, PolicyAddress,
    PolicyEntries, PolicyRule, PortRange, Prefix, Project, Ref, VirtualNetwork, VncClient,
};

/// The test networks, each with its subnets.
const NETWORKS: [(&str, &[&str]); 3] = [
    (
        "default-domain:default-project:blue-network",
        &["5.5.5.0/24", "fd00:5::/64"],
    ),
    (
        "default-domain:default-project:red-network",
        &["6.6.6.0/24"],
    ),
    (
        "default-domain:default-project:tiny-network",
        &["7.7.7.0/29"],
    ),
];

/// The rules of a security group that allow incoming traffic to these TCP ports only, and all
/// outgoing traffic.
#[must_use]
pub fn open_ports(ports: &[i32]) -> PolicyEntries {
    let range = |start_port, end_port| PortRange {
        start_port,
        end_port,
    };
    let local = || PolicyAddress {
        security_group: Some("local".to_owned()),
        ..PolicyAddress::default()
    };
    let anywhere = || PolicyAddress {
        subnet: "0.0.0.0/0".parse().ok().map(Prefix::of),
        ..PolicyAddress::default()
    };
    let rule = |protocol: &str, from, to, ports| PolicyRule {
        direction: Some(">".to_owned()),
        protocol: Some(protocol.to_owned()),
        ethertype: Some("IPv4".to_owned()),
        src_addresses: vec![from],
        src_ports: vec![range(0, 65535)],
        dst_addresses: vec![to],
        dst_ports: vec![ports],
        ..PolicyRule::default()
    };
    let mut rules = vec![rule("any", local(), anywhere(), range(0, 65535))];
    for port in ports {
        rules.push(rule("tcp", anywhere(), local(), range(*port, *port)));
    }
    PolicyEntries { policy_rule: rules }
}

/// Creates the test networks, with their projects and subnets.
pub async fn provision(client: &VncClient) -> Result<()> {
    for (name, subnets) in NETWORKS {
        network(client, name, subnets).await?;
    }
    Ok(())
}

pub(super) async fn network(client: &VncClient, name: &str, subnets: &[&str]) -> Result<()> {
    let name: FqName = name.parse()?;
    let project = name.parent().context("a network has a project")?;
    let domain = project.parent().context("a project has a domain")?;
    client.ensure(&Domain::named(domain)).await?;
    client.ensure(&Project::named(project.clone())).await?;
    let ipam = NetworkIpam::named(project.child(format!("{}-ipam", name.name())));
    client.ensure(&ipam).await?;
    let mut network = VirtualNetwork::named(name);
    let subnets = subnets.iter().map(|subnet| {
        Ok(IpamSubnet {
            subnet: Some(Prefix::of(subnet.parse()?)),
            ..IpamSubnet::default()
        })
    });
    network.network_ipam_refs = vec![Ref::with(
        ipam.common.fq_name,
        NetworkIpamSubnets {
            ipam_subnets: subnets.collect::<Result<_>>()?,
        },
    )];
    client.ensure(&network).await?;
    Ok(())
}
