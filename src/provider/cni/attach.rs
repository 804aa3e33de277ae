//! Attaching and detaching one interface, on a thread of its own.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::{Attachment, BoxError, Intent, ProviderError, failed, refused};
use super::chain::Chain;
use super::record::{NamespaceId, Record};
use super::{CniIntent, Inner, outcome};
use crate::net::links::{self, Link};
use crate::net::netlink::NetlinkSocket;
use crate::net::netns::{Kind, OwnThread};
use contrail_mesos_api::container::Mac;

impl Inner {
    /// Runs the plugins' ADD. Blocks.
    pub(super) fn attach(
        &self,
        mut thread: OwnThread,
        intent: &Intent,
        own: &CniIntent,
        namespace: &OwnedFd,
    ) -> Result<Attachment, ProviderError> {
        let network = &intent.network;
        let fail = |error: BoxError| failed(network, "attach", error);
        if let Some(record) = self.records.read(intent)
            && record.result.is_some()
        {
            return Err(refused(
                network,
                format!(
                    "container {} is attached already; detach it first",
                    intent.container
                ),
            ));
        }
        let id = NamespaceId::of(namespace).map_err(|error| fail(error.into()))?;
        let mut record = Record {
            intent: intent.clone(),
            namespace: id,
            result: None,
            host_interface: None,
            is_inside: false,
        };
        self.records
            .write(&record)
            .map_err(|error| fail(error.into()))?;
        // The handle is made at the same time as this runs; our descriptor is there already.
        let path = PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            namespace.as_raw_fd()
        ));
        let mut result = self.chain(intent, own).add(&path).map_err(fail)?;
        let parsed = outcome::parse(&result, &intent.interface);
        // What a DEL is told stays true when the descriptor is gone.
        rename_sandbox(&mut result, &path, &self.handle(intent));
        record.result = Some(result);
        let outcome = match parsed {
            Ok(outcome) => {
                record.host_interface = host_end(&outcome.host_interfaces).map_err(fail)?;
                outcome
            }
            Err(error) => {
                self.records
                    .write(&record)
                    .map_err(|error| fail(error.into()))?;
                return Err(fail(error.into()));
            }
        };
        let link = inside(&mut thread, namespace, &intent.interface).map_err(fail)?;
        record.is_inside = link.is_some();
        self.records
            .write(&record)
            .map_err(|error| fail(error.into()))?;
        let missing = own
            .asked
            .iter()
            .find(|asked| !outcome.addresses.iter().any(|net| net.addr() == **asked));
        if let Some(asked) = missing {
            return Err(refused(
                network,
                format!(
                    "its plugins did not give the address {asked} that was asked for: they must \
                     have the capability \"ips\", or heed args.cni.ips"
                ),
            ));
        }
        self.attached(intent, record.host_interface);
        let of_link = link.and_then(|link| link.mac.try_into().ok()).map(Mac);
        Ok(Attachment {
            addresses: outcome.addresses,
            gateways: outcome.gateways,
            mac: of_link.or(outcome.mac).unwrap_or(Mac([0; 6])),
            dns: if outcome.dns.nameservers.is_empty() {
                intent.dns.clone()
            } else {
                outcome.dns
            },
        })
    }

    /// Runs the plugins' DEL, whether or not an ADD came to its end. Blocks.
    pub(super) fn detach(
        &self,
        intent: &Intent,
        own: &CniIntent,
    ) -> Result<(), Vec<ProviderError>> {
        self.forget(intent);
        let record = self.records.read(intent);
        let namespace = record
            .as_ref()
            .and_then(|record| self.namespace(intent, record.namespace))
            .unwrap_or_default();
        let result = record.as_ref().and_then(|record| record.result.as_ref());
        let network = &intent.network;
        let fail = |error: BoxError| failed(network, "detach", error);
        let errors: Vec<ProviderError> = self
            .chain(intent, own)
            .del(&namespace, result)
            .into_iter()
            .map(fail)
            .collect();
        if errors.is_empty() {
            let removed = self.records.remove(intent);
            removed.map_err(|error| vec![fail(error.into())])
        } else {
            Err(errors)
        }
    }

    fn chain<'a>(&'a self, intent: &'a Intent, own: &'a CniIntent) -> Chain<'a> {
        Chain {
            intent,
            own,
            environment: &self.environment,
            records: &self.records,
        }
    }

    /// Where the container's handle is, as the isolator makes it.
    fn handle(&self, intent: &Intent) -> PathBuf {
        self.netns_dir.join(intent.container.file_name())
    }

    /// A path of the container's namespace: its handle, or the operator's own. Never that of
    /// another namespace.
    pub(super) fn namespace(&self, intent: &Intent, id: NamespaceId) -> Option<PathBuf> {
        let is_it = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|found| NamespaceId::new(found.dev(), found.ino()) == id)
        };
        let handle = self.handle(intent);
        if is_it(&handle) {
            return Some(handle);
        }
        let entries = fs::read_dir(&self.netns_dir).ok()?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(is_it)
    }
}

/// The host's end of the container's interface: bridges and the like are others' too.
fn host_end(names: &[String]) -> Result<Option<String>, BoxError> {
    let mut socket = NetlinkSocket::route()?;
    for name in names {
        if let Some(link) = links::by_name(&mut socket, name)?
            && link.kind.as_deref() == Some("veth")
        {
            return Ok(Some(link.name));
        }
    }
    Ok(None)
}

/// Enters the namespace, turns loopback on, and looks at the interface.
pub(super) fn inside(
    thread: &mut OwnThread,
    namespace: &OwnedFd,
    interface: &str,
) -> Result<Option<Link>, BoxError> {
    thread.enter(namespace.as_fd(), Kind::Net)?;
    let mut socket = NetlinkSocket::route()?;
    socket.execute_all(&[links::set_up("lo", None)])?;
    Ok(links::by_name(&mut socket, interface)?)
}

fn rename_sandbox(result: &mut Value, old: &Path, new: &Path) {
    let interfaces = result.get_mut("interfaces").and_then(Value::as_array_mut);
    for interface in interfaces.into_iter().flatten() {
        if let Some(sandbox) = interface.get_mut("sandbox")
            && sandbox.as_str() == old.to_str()
        {
            *sandbox = new.to_string_lossy().into();
        }
    }
}
