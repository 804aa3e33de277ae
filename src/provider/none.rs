//! The provider `none`: no network. A container has a network namespace of its own with a loopback
//! interface, and nothing else.
//!
//! Nothing outside the namespace is created, so there is nothing to reserve, adopt or detach.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::inspection::{ExpectedInterface, container_side};
use super::{
    AddressRequest, Attachment, Intent, NetworkRequest, Provider, ProviderError, ProviderErrors,
    Statistics, failed, refused,
};
use crate::net::links;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns;
use contrail_mesos_api::container::{ContainerId, Mac};

/// The MTU of a loopback interface, in bytes.
const LOOPBACK_MTU: u32 = 65536;

/// The none provider's part of an intent: nothing. Part of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NoneIntent {}

/// The provider `none`.
#[derive(Debug)]
pub struct NoneProvider;

#[async_trait]
impl Provider for NoneProvider {
    type Network = ();
    type Intent = NoneIntent;

    fn validate(&self, request: &NetworkRequest, (): &()) -> Result<(), ProviderErrors> {
        let name = &request.network.name;
        let mut errors = ProviderErrors::new();
        if request
            .addresses
            .iter()
            .any(|address| *address != AddressRequest::Any)
        {
            errors.push(refused(
                name,
                "an address was requested, but a network of provider \"none\" has no addresses",
            ));
        }
        if !request.ports.is_empty() {
            errors.push(refused(
                name,
                "a port was to be mapped, but nothing reaches a container on a network of provider \"none\"",
            ));
        }
        errors.into_result(())
    }

    async fn plan(&self, request: &NetworkRequest, (): &()) -> Result<Vec<String>, ProviderErrors> {
        self.validate(request, &())?;
        Ok(vec!["in the container: set lo up".to_owned()])
    }

    async fn reserve(
        &self,
        request: &NetworkRequest,
        (): &(),
    ) -> Result<Intent<NoneIntent>, ProviderError> {
        Ok(Intent {
            container: request.container.clone(),
            network: request.network.name.clone(),
            interface: request.interface.clone(),
            addresses: vec![],
            gateways: vec![],
            mac: Mac([0; 6]),
            mtu: LOOPBACK_MTU,
            ports: vec![],
            dns: request.network.dns.clone().unwrap_or_default(),
            provider: NoneIntent {},
        })
    }

    async fn release(&self, _: &Intent<NoneIntent>) -> Result<(), ProviderErrors> {
        Ok(())
    }

    async fn attach_all(
        &self,
        intents: &[Intent<NoneIntent>],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, ProviderErrors> {
        let network = intents.first().map_or("*", |intent| &intent.network);
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(|error| failed(network, "keep the container's namespace open", error))?;
        netns::run_in(namespace, set_loopback_up)
            .await
            .map_err(|error| failed(network, "attach", error))?
            .map_err(|error| failed(network, "attach", error))?;
        let attachment = |intent: &Intent<NoneIntent>| Attachment {
            addresses: vec![],
            gateways: vec![],
            mac: intent.mac,
            dns: intent.dns.clone(),
        };
        Ok(intents.iter().map(attachment).collect())
    }

    async fn detach_all(&self, _: &[Intent<NoneIntent>]) -> Result<(), ProviderErrors> {
        Ok(())
    }

    async fn adopt(&self, _: &Intent<NoneIntent>) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn sweep(
        &self,
        _: &[Intent<NoneIntent>],
        _: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors> {
        Ok(())
    }

    async fn statistics(&self, _: &Intent<NoneIntent>) -> Result<Statistics, ProviderError> {
        // What a container sends to itself is no traffic of a network.
        Ok(Statistics::default())
    }

    async fn inspect(
        &self,
        _: &Intent<NoneIntent>,
        _: Option<&Attachment>,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Vec<String> {
        let Some(namespace) = namespace else {
            return vec![];
        };
        let loopback = ExpectedInterface {
            name: "lo".to_owned(),
            ..ExpectedInterface::default()
        };
        container_side(loopback, namespace).await
    }
}

fn set_loopback_up() -> Result<(), NetlinkError> {
    NetlinkSocket::route()?.execute_all(&[links::set_up("lo", None)])
}
