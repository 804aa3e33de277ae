//! What is wrong with an attached interface, seen from inside its container.

use std::os::fd::BorrowedFd;

use ipnet::IpNet;

use super::BridgeIntent;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::{addressing, links, netns, routes};
use crate::provider::Intent;

/// The findings in the container's network namespace. Changes nothing.
pub(super) async fn container_side(
    intent: &Intent<BridgeIntent>,
    namespace: BorrowedFd<'_>,
) -> Vec<String> {
    let namespace = match namespace.try_clone_to_owned() {
        Ok(namespace) => namespace,
        Err(error) => return vec![format!("the container's namespace: {error}")],
    };
    let intent = intent.clone();
    match netns::run_in(namespace, move || findings(&intent)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![format!("in the container: {error}")],
        Err(error) => vec![error.to_string()],
    }
}

fn findings(intent: &Intent<BridgeIntent>) -> Result<Vec<String>, NetlinkError> {
    let name = &intent.interface;
    let mut socket = NetlinkSocket::route()?;
    let Some(link) = links::by_name(&mut socket, name)? else {
        return Ok(vec![format!("in the container: {name} is gone")]);
    };
    let mut findings = Vec::new();
    if !link.up {
        findings.push(format!("in the container: {name} is down"));
    }
    let present = addressing::addresses(&mut socket)?;
    for net in &intent.addresses {
        if !present.contains(&(link.index, *net)) {
            findings.push(format!("in the container: {name} lacks the address {net}"));
        }
    }
    let routes = routes::all(&mut socket)?;
    let is_default = |is_v4: bool| {
        IpNet::new(
            if is_v4 {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            },
            0,
        )
    };
    for gateway in &intent.gateways {
        let mut destinations: Vec<IpNet> = intent.provider.routes.clone();
        if destinations.is_empty() {
            destinations.extend(is_default(gateway.is_ipv4()));
        }
        for destination in destinations {
            let is_family = destination.addr().is_ipv4() == gateway.is_ipv4();
            let is_there = routes.iter().any(|route| {
                route.destination == destination.trunc() && route.links.contains(&link.index)
            });
            if is_family && !is_there {
                findings.push(format!(
                    "in the container: {name} lacks the route to {destination}"
                ));
            }
        }
    }
    Ok(findings)
}
