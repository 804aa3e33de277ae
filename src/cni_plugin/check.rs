//! CHECK: whether the result of an ADD still holds.

use ipnet::IpNet;
use serde_json::Value;

use super::Invocation;
use super::error::{CniError, ErrorCode};
use crate::net::netns;
use crate::provider::inspection::ExpectedInterface;

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
        let expected = ExpectedInterface {
            name: interface,
            addresses: addresses.clone(),
            ..ExpectedInterface::default()
        };
        let findings = netns::run_in(namespace, move || expected.findings())
            .await
            .map_err(|error| CniError::caused_by("cannot enter the container's namespace", error))?
            .map_err(|error| {
                CniError::caused_by("cannot read the container's interfaces", error)
            })?;
        if !findings.is_empty() {
            return Err(CniError::new(
                ErrorCode::Other,
                format!("in the container: {}", findings.join("; ")),
            ));
        }
        let forwarded = self
            .vrouter
            .forwarded(self.vm_uuid)
            .await
            .map_err(|error| CniError::new(ErrorCode::Other, error.to_string()))?;
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
