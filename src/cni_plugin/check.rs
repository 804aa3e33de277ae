//! CHECK: whether the result of an ADD still holds.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Invocation;
use super::error::{CniError, ErrorCode};
use crate::net::netlink::NetlinkSocket;
use crate::net::{addressing, links, netns};

impl Invocation {
    pub(super) async fn check(&self, version: &str, input: &[u8]) -> Result<(), CniError> {
        if !matches!(version, "0.4.0" | "1.0.0") {
            return Err(CniError::new(
                ErrorCode::Version,
                format!("CHECK needs CNI 0.4.0 or newer; cniVersion is {version:?}"),
            ));
        }
        let input: Value = serde_json::from_slice(input).unwrap_or_default();
        let previous = input.get("prevResult").ok_or_else(|| {
            CniError::new(
                ErrorCode::Config,
                "CHECK needs \"prevResult\", the result of ADD",
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
            .map_err(|error| CniError::new(ErrorCode::Environment, error.to_string()))?;
        let (name, expected) = (interface.clone(), addresses.clone());
        let missing = netns::run_in(namespace, move || find_missing(&name, &expected))
            .await
            .map_err(|error| {
                CniError::caused_by("cannot enter the container's namespace", error)
            })??;
        if let Some(missing) = missing {
            return Err(CniError::new(
                ErrorCode::Other,
                format!("the container no longer has {missing}"),
            ));
        }
        let forwarded: Vec<IpAddr> = self
            .vrouter
            .addresses(self.vm_uuid)
            .await
            .map_err(|error| CniError::new(ErrorCode::Other, error.to_string()))?
            .unwrap_or_default()
            .iter()
            .flat_map(|plugged| plugged.v4.into_iter().chain(plugged.v6))
            .map(|address| address.address)
            .collect();
        match addresses
            .iter()
            .find(|net| !forwarded.contains(&net.addr()))
        {
            None => Ok(()),
            Some(net) => Err(CniError::new(
                ErrorCode::Other,
                format!("the vRouter agent does not forward {net} for the container"),
            )),
        }
    }
}

/// The interface or the first of its addresses that does not exist. Runs in the container's
/// namespace.
fn find_missing(interface: &str, addresses: &[IpNet]) -> Result<Option<String>, CniError> {
    let fail = |error| CniError::caused_by("cannot read the container's interfaces", error);
    let mut socket = NetlinkSocket::route().map_err(fail)?;
    let Some(link) = links::by_name(&mut socket, interface).map_err(fail)? else {
        return Ok(Some(format!("the interface {interface}")));
    };
    let present = addressing::addresses(&mut socket).map_err(fail)?;
    let missing = addresses
        .iter()
        .find(|address| !present.contains(&(link.index, **address)));
    Ok(missing.map(|address| format!("the address {address} on {interface}")))
}
