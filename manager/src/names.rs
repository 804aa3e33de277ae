//! Names → uuids and networks, remembered for a short while.
//!
//! A name that does not exist is never remembered, so that what somebody makes later is found
//! then; and one that turns out to be gone is forgotten. Many who ask for one name at once ask
//! the API server once.

mod create;
mod network;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

pub(super) use network::{Network, Subnet};

use super::config::{Config, Create};
use super::error::ManagerError;
use crate::vnc::{
    Detail, Domain, FloatingIpPool, FqName, Object, Project, Query, SecurityGroup, VirtualNetwork,
    VirtualRouter, VncClient,
};
use contrail_mesos_api::text::Quoted;

/// How many names are kept before those that are stale are thrown out.
const MANY: usize = 10_000;
/// How many names a message lists.
const LISTED: usize = 20;
/// The parent of all virtual-routers.
const SYSTEM: &str = "default-global-system-config";

/// What a name is the name of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Network(FqName),
    /// A type, and the name of an object of it.
    Object(&'static str, FqName),
    Router(String, Option<IpAddr>),
}

#[derive(Clone, Debug)]
enum Known {
    Uuid(Uuid),
    Network(Arc<Network>),
}

/// What is known, and since when. Locked while it is being found out.
type Slot = Arc<tokio::sync::Mutex<Option<(Known, Instant)>>>;

/// The names that are known.
#[derive(Debug)]
pub(super) struct Names {
    client: VncClient,
    create: Create,
    cluster: String,
    remember: Duration,
    slots: Mutex<HashMap<Key, Slot>>,
}

impl Names {
    pub(super) fn new(client: VncClient, config: &Config) -> Self {
        Self {
            client,
            create: config.create,
            cluster: config.defaults.cluster.clone(),
            remember: config.name_cache_ttl,
            slots: Mutex::default(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: something that was taken for granted is gone.
    pub(super) fn forget(&self) {
        self.slots().clear();
    }

    async fn known(
        &self,
        key: Key,
        find: impl Future<Output = Result<Option<Known>, ManagerError>>,
    ) -> Result<Option<Known>, ManagerError> {
        let slot = {
            let mut slots = self.slots();
            if slots.len() >= MANY {
                let fresh = |slot: &Slot| match slot.try_lock() {
                    Ok(slot) => slot.as_ref().is_some_and(|known| self.is_fresh(known.1)),
                    // Somebody is just finding it out.
                    Err(_) => true,
                };
                slots.retain(|_, slot| fresh(slot));
            }
            slots.entry(key.clone()).or_default().clone()
        };
        let mut known = slot.lock().await;
        if let Some((known, since)) = &*known
            && self.is_fresh(*since)
        {
            return Ok(Some(known.clone()));
        }
        *known = None;
        let since = Instant::now();
        let found = find.await;
        match &found {
            Ok(Some(found)) => *known = Some((found.clone(), since)),
            _ => {
                self.slots().remove(&key);
            }
        }
        found
    }

    fn is_fresh(&self, since: Instant) -> bool {
        since.elapsed() < self.remember
    }

    async fn id<T: Object>(&self, name: &FqName) -> Result<Option<Uuid>, ManagerError> {
        let find = async {
            let uuid = self.client.id_of::<T>(name).await?;
            Ok(uuid.map(Known::Uuid))
        };
        match self.known(Key::Object(T::TYPE, name.clone()), find).await? {
            Some(Known::Uuid(uuid)) => Ok(Some(uuid)),
            _ => Ok(None),
        }
    }

    /// The uuid of a security group.
    pub(super) async fn security_group(&self, name: &FqName) -> Result<Uuid, ManagerError> {
        match self.id::<SecurityGroup>(name).await? {
            Some(uuid) => Ok(uuid),
            None => Err(self
                .unknown::<SecurityGroup>("security group", name)
                .await?),
        }
    }

    /// The uuid of a pool of floating addresses.
    pub(super) async fn pool(&self, name: &FqName) -> Result<Uuid, ManagerError> {
        match self.id::<FloatingIpPool>(name).await? {
            Some(uuid) => Ok(uuid),
            None => Err(self
                .unknown::<FloatingIpPool>("floating address pool", name)
                .await?),
        }
    }

    /// The uuid of an agent's virtual-router: the one of its name, else the one with its address.
    pub(super) async fn router(
        &self,
        agent: &str,
        address: Option<IpAddr>,
    ) -> Result<Uuid, ManagerError> {
        let find = async {
            let name = FqName::new([SYSTEM, agent]);
            if let Some(uuid) = self.client.id_of::<VirtualRouter>(&name).await? {
                return Ok(Some(Known::Uuid(uuid)));
            }
            let fields = Detail::Fields(vec!["virtual_router_ip_address".to_owned()]);
            let routers = self
                .client
                .list::<VirtualRouter>(&Query::new().detail(fields))
                .await?;
            let mut with_address = routers.iter().filter(|router| {
                address.is_some() && router.virtual_router_ip_address.0 == address
            });
            if let Some(router) = with_address.next() {
                return match with_address.next() {
                    None => Ok(router.common.uuid.map(Known::Uuid)),
                    Some(other) => Err(ManagerError::invalid(format!(
                        "the virtual-routers {:?} and {:?} both have the agent's address; give the \
                         agent the name of its own",
                        router.common.fq_name.name(),
                        other.common.fq_name.name(),
                    ))),
                };
            }
            let there = names(routers.iter().map(|router| router.common.fq_name.name()));
            let by_address = address.map_or_else(String::new, |address| {
                format!(" or has the address {address}")
            });
            Err(ManagerError::invalid(format!(
                "no virtual-router is called {agent:?}{by_address}; register the host's vRouter \
                 under the agent's name (there are: {there})"
            )))
        };
        match self
            .known(Key::Router(agent.to_owned(), address), find)
            .await?
        {
            Some(Known::Uuid(uuid)) => Ok(uuid),
            _ => Err(ManagerError::InvalidResponse(
                "a virtual-router has no uuid".to_owned(),
            )),
        }
    }

    /// Why there is no object of that name: what there is in its place.
    async fn unknown<T: Object>(
        &self,
        what: &str,
        name: &FqName,
    ) -> Result<ManagerError, ManagerError> {
        let Some(parent) = name.parent() else {
            return Ok(ManagerError::invalid(format!(
                "there is no {what} {}",
                quoted(name)
            )));
        };
        let there = match parent.parts().len() {
            1 => self.siblings::<T, Domain>(&parent).await?,
            2 => self.siblings::<T, Project>(&parent).await?,
            _ => self.siblings::<T, VirtualNetwork>(&parent).await?,
        };
        Ok(ManagerError::invalid(format!(
            "there is no {what} {}: {there}",
            quoted(name)
        )))
    }

    async fn siblings<T: Object, P: Object>(
        &self,
        parent: &FqName,
    ) -> Result<String, ManagerError> {
        let Some(uuid) = self.client.id_of::<P>(parent).await? else {
            return Ok(format!("nor is there a {} {}", P::TYPE, quoted(parent)));
        };
        let query = Query::new().children_of([uuid]).detail(Detail::Names);
        let siblings = self.client.list::<T>(&query).await?;
        let there = names(
            siblings
                .iter()
                .map(|sibling| sibling.common().fq_name.name()),
        );
        Ok(format!("the {} {} has {there}", P::TYPE, quoted(parent)))
    }
}

fn quoted(name: &FqName) -> String {
    Quoted(name.to_string().as_bytes()).to_string()
}

/// Some names, sorted; others write what they like into them.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    if names.is_empty() {
        return "none".to_owned();
    }
    let listed: Vec<String> = names
        .iter()
        .take(LISTED)
        .map(|name| Quoted(name.as_bytes()).to_string())
        .collect();
    let listed = listed.join(", ");
    match names.len().checked_sub(LISTED) {
        None | Some(0) => listed,
        Some(more) => format!("{listed} and {more} more"),
    }
}
