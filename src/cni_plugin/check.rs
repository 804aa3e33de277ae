//! CHECK: whether what an ADD made is still there.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Call;
use super::failure::{Code, Failure};
use crate::net::netlink::NetlinkSocket;
use crate::net::{addressing, links, netns};

impl Call {
    pub(super) async fn check(&self, version: &str, input: &[u8]) -> Result<(), Failure> {
        if !matches!(version, "0.4.0" | "1.0.0") {
            return Err(Failure::new(
                Code::Version,
                format!("CHECK is of CNI 0.4.0; cniVersion is {version:?}"),
            ));
        }
        let input: Value = serde_json::from_slice(input).unwrap_or_default();
        let previous = input.get("prevResult").ok_or_else(|| {
            Failure::new(
                Code::Config,
                "CHECK needs \"prevResult\", what ADD answered",
            )
        })?;
        let interface = previous["interfaces"][0]["name"]
            .as_str()
            .unwrap_or(&self.interface)
            .to_owned();
        let addresses: Vec<IpNet> = previous["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| ip["address"].as_str()?.parse().ok())
            .collect();
        let namespace = netns::of_path(&self.namespace)
            .map_err(|error| Failure::new(Code::Environment, error.to_string()))?;
        let (name, wanted) = (interface.clone(), addresses.clone());
        let missing = netns::run_in(namespace, move || missing_inside(&name, &wanted))
            .await
            .map_err(|error| Failure::of("cannot look into the container", error))??;
        if let Some(missing) = missing {
            return Err(Failure::new(
                Code::Other,
                format!("the container has no longer {missing}"),
            ));
        }
        let known: Vec<IpAddr> = self
            .vrouter
            .addresses(self.machine)
            .await
            .map_err(|error| Failure::new(Code::Other, error.to_string()))?
            .unwrap_or_default()
            .iter()
            .flat_map(|plugged| plugged.v4.into_iter().chain(plugged.v6))
            .map(|heard| heard.address)
            .collect();
        match addresses.iter().find(|net| !known.contains(&net.addr())) {
            None => Ok(()),
            Some(lost) => Err(Failure::new(
                Code::Other,
                format!("the vRouter agent does not forward {lost} for the container any more"),
            )),
        }
    }
}

/// What is not there of an interface. Runs inside the namespace.
fn missing_inside(interface: &str, addresses: &[IpNet]) -> Result<Option<String>, Failure> {
    let fail = |error| Failure::of("cannot look at the container's interfaces", error);
    let mut socket = NetlinkSocket::route().map_err(fail)?;
    let Some(link) = links::by_name(&mut socket, interface).map_err(fail)? else {
        return Ok(Some(format!("the interface {interface}")));
    };
    let there = addressing::addresses(&mut socket).map_err(fail)?;
    let missing = addresses
        .iter()
        .find(|address| !there.contains(&(link.index, **address)));
    Ok(missing.map(|address| format!("the address {address} on {interface}")))
}
