//! What is wrong with an attached interface, seen from inside its container.

use std::os::fd::BorrowedFd;

use super::BridgeIntent;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::{addressing, links, netns, routes};
use crate::provider::Intent;
use crate::provider::bridge::driver::behind_gateways;
use crate::provider::container_side::{gateway_on_link, main_routes};

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
    for gateway in &intent.gateways {
        let behind_gateways = behind_gateways(intent);
        let by_gateway = main_routes(name, *gateway, &intent.provider.routes, behind_gateways);
        let on_link = gateway_on_link(*gateway, behind_gateways);
        for destination in on_link.into_iter().chain(by_gateway) {
            let is_there = routes.iter().any(|route| {
                route.destination == destination.trunc() && route.links.contains(&link.index)
            });
            if !is_there {
                findings.push(format!(
                    "in the container: {name} lacks the route to {destination}"
                ));
            }
        }
    }
    Ok(findings)
}
