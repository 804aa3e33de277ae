//! Which containers are requested.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::admin::state::AdminError;
use crate::model::CachedVm;
use contrail_mesos_api::query::QueryParameters;
use contrail_mesos_api::routes::Operation;

/// A filter of containers: all that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerFilter {
    /// A part of the name of a network.
    pub network: Option<String>,
    /// A part of the id of the app.
    pub app: Option<String>,
    /// A part of the name of the agent.
    pub agent: Option<String>,
    /// An address of the container, a floating one included, or the subnet of one.
    pub address: Option<IpNet>,
}

impl ContainerFilter {
    /// Documents these parameters.
    pub(crate) fn document(operation: Operation) -> Operation {
        operation
            .query::<String>("network", "A part of the name of a network", "blue")
            .query::<String>("app", "A part of the id of the app", "web")
            .query::<String>("agent", "A part of the name of the agent", "node1")
            .query::<String>(
                "address",
                "An address of the container, or a subnet",
                "10.32.0.0/12",
            )
    }

    pub(crate) fn read(parameters: &mut QueryParameters) -> Result<Self, AdminError> {
        let text = parameters.take("address");
        let address = text.map(|text| parse_address(text.trim())).transpose()?;
        let mut part = |name| parameters.take(name).map(|part| part.trim().to_owned());
        Ok(Self {
            network: part("network"),
            app: part("app"),
            agent: part("agent"),
            address,
        })
    }

    /// Whether it selects anything.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The address or subnet, as it was requested.
    pub(crate) fn address_text(&self) -> Option<String> {
        self.address.map(|net| {
            if net.prefix_len() == net.max_prefix_len() {
                net.addr().to_string()
            } else {
                net.to_string()
            }
        })
    }

    /// Whether a container matches.
    pub(super) fn matches(&self, container: &CachedVm) -> bool {
        let contains = |part: &Option<String>, text: Option<&str>| {
            part.as_deref()
                .is_none_or(|part| text.is_some_and(|text| text.contains(part)))
        };
        let interfaces = &container.interfaces;
        let is_on_network = || {
            interfaces.iter().any(|interface| {
                let full = interface.details.network.as_ref().map(ToString::to_string);
                contains(&self.network, full.as_deref())
                    || contains(&self.network, interface.network_name.as_deref())
            })
        };
        let has_address = |net: IpNet| {
            interfaces.iter().any(|interface| {
                let details = &interface.details;
                let mut addresses = details.addresses.iter().chain(&details.floating_ips);
                addresses.any(|(_, address)| {
                    address.is_some_and(|address: IpAddr| net.contains(&address))
                })
            })
        };
        contains(&self.agent, Some(&container.agent))
            && contains(&self.app, container.identity.application.as_deref())
            && (self.network.is_none() || is_on_network())
            && self.address.is_none_or(has_address)
    }
}

pub(super) fn parse_address(text: &str) -> Result<IpNet, AdminError> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| {
        AdminError::bad_request(format!(
            "address={} is neither an address nor a subnet",
            contrail_mesos_api::text::Quoted(text.as_bytes())
        ))
    })
}
