//! Attaching a container that was started.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::{Attachment, Intent, ProviderError, failed, refused};
use super::machine::{Machine, Ready, State};
use super::plug::{Interface, Plug};
use super::{Inner, own};

impl Inner {
    pub(super) async fn attach(
        self: &Arc<Self>,
        intents: &[&Intent],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, ProviderError> {
        let deadline = Instant::now() + self.options.deadline;
        let Some((first, own)) = intents
            .first()
            .and_then(|first| Some((*first, own(first)?)))
        else {
            return Ok(vec![]);
        };
        let network = &first.network;
        let fail = |error| failed(network, "attach", error);
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(|error| fail(error.into()))?;
        let known = self.machines().get(&own.machine).cloned();
        let machine = match known {
            Some(machine) => machine,
            None => self
                .start(intents)
                .ok_or_else(|| refused(network, "there is nothing to attach"))?,
        };
        let Some(start) = machine.start.clone() else {
            let message = format!(
                "container {} is attached already; detach it first",
                first.container
            );
            return Err(refused(network, message));
        };
        let ready = start.await.map_err(|problem| problem.error(network))?;
        let _gate = machine.gate.lock().await;
        if machine.state() != State::Starting {
            return Err(refused(
                network,
                "the container was attached already, or detached before it was attached",
            ));
        }
        let plug = self.plug(&machine, &ready).map_err(fail)?;
        let attached = plug
            .plug(&self.vrouter, &self.files, namespace, deadline)
            .await
            .map_err(fail)?;
        // A detach may have begun to wait for us meanwhile.
        machine.go(State::Starting, State::Attached);
        Ok(attached)
    }

    /// What the container is to be plugged as.
    fn plug(&self, machine: &Machine, ready: &Ready) -> Result<Plug, super::BoxError> {
        let mut interfaces = Vec::new();
        for (intent, configuration) in machine.intents.iter().zip(&ready.configuration) {
            let Some(own) = own(intent) else { continue };
            let port = ready.ports.ports.iter().find(|port| port.uuid == own.uuid);
            let vlan = match &own.parent {
                None => None,
                Some(parent) => Some((
                    parent.clone(),
                    configuration.vlan.ok_or_else(|| {
                        format!(
                            "the vRouter agent has no VLAN for {}, which a macvlan needs: its \
                             interface must be a sub-interface with a VLAN tag",
                            intent.interface
                        )
                    })?,
                )),
            };
            interfaces.push(Interface {
                name: intent.interface.clone(),
                host_interface: own.host_interface.clone(),
                alias: self.tag.of_container(intent, &own.host_interface),
                uuid: own.uuid,
                network: configuration.network,
                mac: configuration.mac,
                mtu: intent.mtu,
                vlan,
                addresses: port.map_or_else(Vec::new, |port| port.addresses.clone()),
                dns: intent.dns.clone(),
            });
        }
        let first = machine
            .intents
            .first()
            .ok_or("there is nothing to attach")?;
        Ok(Plug {
            machine: ready.ports.machine,
            name: first.container.to_string(),
            namespace: String::new(),
            interfaces,
        })
    }
}
