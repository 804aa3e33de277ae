//! What is wrong with an attached interface, seen from inside its container. Changes nothing.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ipnet::IpNet;

use super::container_side::{gateway_on_link, main_routes};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::{addressing, links, netns, routes};
use contrail_mesos_api::container::Mac;

/// What an interface of a container was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpectedInterface {
    /// Its name.
    pub(crate) name: String,
    /// Its MAC address, if that is known.
    pub(crate) mac: Option<Mac>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpNet>,
    /// Its next hops, each with the destinations behind it.
    pub(crate) gateways: Vec<IpAddr>,
    /// Destinations behind the gateways; see [`ContainerLink`](super::container_side::ContainerLink).
    pub(crate) routes: Vec<IpNet>,
    /// The same of its subnets that are behind the gateways.
    pub(crate) subnets_behind_gateways: Vec<IpNet>,
}

/// The findings in the container's network namespace, a sentence each.
pub(super) async fn container_side(
    expected: ExpectedInterface,
    namespace: BorrowedFd<'_>,
) -> Vec<String> {
    let namespace = match namespace.try_clone_to_owned() {
        Ok(namespace) => namespace,
        Err(error) => return vec![format!("the container's namespace: {error}")],
    };
    match netns::run_in(namespace, move || expected.findings()).await {
        Ok(Ok(findings)) => findings
            .into_iter()
            .map(|finding| format!("in the container: {finding}"))
            .collect(),
        Ok(Err(error)) => vec![format!("in the container: {error}")],
        Err(error) => vec![error.to_string()],
    }
}

impl ExpectedInterface {
    /// What is wrong with the interface in the calling thread's network namespace.
    pub(crate) fn findings(&self) -> Result<Vec<String>, NetlinkError> {
        let name = &self.name;
        let mut socket = NetlinkSocket::route()?;
        let Some(link) = links::by_name(&mut socket, name)? else {
            return Ok(vec![format!("{name} is gone")]);
        };
        let mut findings = Vec::new();
        if !link.up {
            findings.push(format!("{name} is down"));
        }
        if let Some(mac) = self.mac.filter(|mac| link.mac != mac.0) {
            findings.push(format!("{name} does not have the MAC address {mac}"));
        }
        let present = addressing::addresses(&mut socket)?;
        for net in &self.addresses {
            if !present.contains(&(link.index, *net)) {
                findings.push(format!("{name} lacks the address {net}"));
            }
        }
        if self.gateways.is_empty() {
            return Ok(findings);
        }
        let routes = routes::all(&mut socket)?;
        for gateway in &self.gateways {
            let behind = &self.subnets_behind_gateways;
            let by_gateway = main_routes(name, *gateway, &self.routes, behind);
            let on_link = gateway_on_link(*gateway, behind);
            for destination in on_link.into_iter().chain(by_gateway) {
                let is_there = routes.iter().any(|route| {
                    route.destination == destination.trunc() && route.links.contains(&link.index)
                });
                if !is_there {
                    findings.push(format!("{name} lacks the route to {destination}"));
                }
            }
        }
        Ok(findings)
    }
}
