//! After a restart: containers are taken over, and what is ours but nobody's is undone. And while
//! we run: host ends that go away.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc::UnboundedSender;

use super::super::{Intent, Lost, ProviderError, Statistics, counters, failed, refused};
use super::{BoxError, Inner, attach, blocking, own};
use crate::net::link_watch::{LinkEvent, LinkWatch};
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns;
use contrail_mesos_api::container::ContainerId;

/// Watches for host ends that go away.
pub(super) fn watch(
    inner: Weak<Inner>,
    lost: UnboundedSender<Lost>,
) -> Result<LinkWatch, NetlinkError> {
    let mut socket = NetlinkSocket::route()?;
    LinkWatch::start(move |event| {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        for (key, host) in inner.host_ends() {
            let concerned = match &event {
                LinkEvent::Deleted(deleted) => *deleted == host,
                LinkEvent::Missed => true,
            };
            if concerned
                && matches!(links::by_name(&mut socket, &host), Ok(None))
                && inner.lose(&key)
            {
                let (container, interface) = key;
                // The provider's owner may be about to end.
                let _ = lost.send(Lost {
                    container,
                    message: format!(
                        "the interface {interface} is gone: somebody deleted it or its host end \
                         {host}, or its network namespace ended"
                    ),
                });
            }
        }
    })
}

impl Inner {
    /// Takes over an interface, which must still be there where that can be seen.
    pub(super) async fn adopt(self: &Arc<Self>, intent: &Intent) -> Result<(), ProviderError> {
        let network = &intent.network;
        let fail = |error: BoxError| failed(network, "look for the container's interface", error);
        let (inner, of) = (Arc::clone(self), intent.clone());
        let record = blocking(move || Ok(inner.records.read(&of)))
            .await
            .map_err(fail)?;
        let Some(record) = record else {
            self.attached(intent, None);
            return Ok(());
        };
        if let Some(name) = record.host_interface {
            let link = host_link(name.clone()).await.map_err(fail)?;
            if link.is_none() {
                let message = format!("the host's end {name} of {} is gone", intent.interface);
                return Err(refused(network, message));
            }
            self.attached(intent, Some(name));
            return Ok(());
        }
        if record.is_inside {
            let found = self.look_inside(intent).await.map_err(fail)?;
            if let Some(None) = found {
                let message = format!(
                    "the container's namespace has no interface {} any more",
                    intent.interface
                );
                return Err(refused(network, message));
            }
        }
        self.attached(intent, None);
        Ok(())
    }

    /// The container's interface, seen from inside; `None` where its namespace cannot be found.
    async fn look_inside(
        self: &Arc<Self>,
        intent: &Intent,
    ) -> Result<Option<Option<Link>>, BoxError> {
        let (inner, intent) = (Arc::clone(self), intent.clone());
        netns::on_own_thread("cm-cni", move |mut thread| {
            let Some(path) = inner
                .records
                .read(&intent)
                .and_then(|record| inner.namespace(&intent, record.namespace))
            else {
                return Ok(None);
            };
            let namespace = netns::of_path(&path)?;
            attach::inside(&mut thread, &namespace, &intent.interface).map(Some)
        })
        .await?
    }

    pub(super) async fn statistics(
        self: &Arc<Self>,
        intent: &Intent,
    ) -> Result<Statistics, ProviderError> {
        if let Some(host) = self.host_end_of(intent) {
            return counters::of_host_end(&intent.network, host).await;
        }
        let action = format!("read the counters of {}", intent.interface);
        match self.look_inside(intent).await {
            Ok(Some(Some(link))) => Ok(counters::of_own_end(&link)),
            Ok(_) => Err(failed(
                &intent.network,
                action,
                "the interface is not there",
            )),
            Err(error) => Err(failed(&intent.network, action, error)),
        }
    }

    /// Undoes what belongs to nobody.
    pub(super) async fn sweep(
        self: &Arc<Self>,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), Vec<ProviderError>> {
        let fail = |error: BoxError| vec![failed("*", "undo what belongs to nobody", error)];
        let inner = Arc::clone(self);
        let records = blocking(move || Ok(inner.records.all()?))
            .await
            .map_err(fail)?;
        let kept: HashSet<_> = known.iter().map(Inner::key).collect();
        let mut errors = vec![];
        for record in records {
            let intent = match record {
                Ok(record) => record.intent,
                Err(path) => {
                    log::warn!("{} cannot be read", path.display());
                    continue;
                }
            };
            let key = Inner::key(&intent);
            if kept.contains(&key) || damaged.contains(&intent.container) || self.has(&key) {
                continue;
            }
            log::warn!(
                "detaching {} of network {:?} from {}, which is no container of this host",
                intent.interface,
                intent.network,
                intent.container
            );
            errors.extend(self.detach_one(&intent).await.err().into_iter().flatten());
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    pub(super) async fn detach_one(
        self: &Arc<Self>,
        intent: &Intent,
    ) -> Result<(), Vec<ProviderError>> {
        let Some(own) = own(intent).cloned() else {
            return Ok(());
        };
        let (inner, of) = (Arc::clone(self), intent.clone());
        // Its own thread: a plugin that hangs takes nobody else's time.
        netns::on_own_thread("cm-cni", move |_| inner.detach(&of, &own))
            .await
            .map_err(|error| vec![failed(&intent.network, "detach", error)])?
    }
}

async fn host_link(name: String) -> Result<Option<Link>, BoxError> {
    blocking(move || {
        let mut socket = NetlinkSocket::route()?;
        Ok(links::by_name(&mut socket, &name)?)
    })
    .await
}
