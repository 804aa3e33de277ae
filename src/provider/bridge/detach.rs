//! Undoing an attach, complete or not, from its intent alone.

use super::super::{Intent, ProviderError};
use super::registry::State;
use super::{BoxError, Inner, failed, holder, own};

impl Inner {
    /// First part of a detach: whatever leads to the container goes, and an attach that is still
    /// under way is waited for.
    pub(super) fn stop(&self, intent: &Intent) -> Result<(), ProviderError> {
        let entry = self
            .registry
            .set(&own(intent).host_interface, State::Detaching);
        let _attach_is_over = entry.as_ref().map(|entry| entry.lock());
        self.table
            .remove(&self.port_elements(intent))
            .map_err(|error| failed(&intent.network, "remove the port mappings", error))
    }

    /// Last part of a detach: the interface is gone.
    pub(super) fn finish(&self, intent: &Intent) -> Vec<ProviderError> {
        let own = own(intent);
        let mut errors = self
            .ipam
            .release(&intent.network, &intent.addresses, &holder(intent));
        self.registry.remove(&own.host_interface);
        errors.extend(self.tidy(intent).err());
        errors
    }

    /// Removes the bridge and the table if nothing needs them any more.
    pub(super) fn tidy(&self, intent: &Intent) -> Result<(), ProviderError> {
        let own = own(intent);
        if self.registry.uses(&own.bridge) {
            return Ok(());
        }
        let fail = |error: BoxError| {
            failed(
                &intent.network,
                format!("remove the unused bridge {}", own.bridge),
                error,
            )
        };
        let Some(_nobody_attaches) = self.host.exclusive().map_err(|error| fail(error.into()))?
        else {
            return Ok(());
        };
        if self.registry.uses(&own.bridge) {
            return Ok(());
        }
        let unused = self
            .host
            .remove_bridge_if_unused(&own.bridge)
            .map_err(|error| fail(error.into()))?;
        if unused {
            self.table
                .remove(&self.network_elements(intent, true))
                .and_then(|()| self.table.remove_if_unused())
                .map_err(|error| fail(error.into()))?;
        }
        Ok(())
    }
}
