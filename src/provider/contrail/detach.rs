//! Detaching: the vRouter agent first, then our links, and the objects last.

use std::sync::Arc;

use futures::future::join_all;

use super::super::{Intent, ProviderError, failed};
use super::pending_teardown::PendingTeardown;
use super::{BoxError, Inner, blocking, own};

impl Inner {
    pub(super) async fn detach(
        self: &Arc<Self>,
        intents: &[&Intent],
    ) -> Result<(), Vec<ProviderError>> {
        let Some((network, uuid)) = intents
            .first()
            .and_then(|first| Some((first.network.clone(), own(first)?.machine)))
        else {
            return Ok(());
        };
        let machine = self.machines().get(&uuid).cloned();
        let mut _gate = None;
        if let Some(machine) = &machine {
            machine.detach();
            // Whatever the manager was asked for comes to its end before it is undone.
            if let Some(start) = machine.start.clone() {
                // Whether it was made or not, it is removed.
                let _ = start.await;
            }
            _gate = Some(machine.gate.lock().await);
        }
        let fail = |action: String| {
            let network = network.clone();
            move |error: BoxError| failed(&network, action, error)
        };
        let links: Vec<String> = intents
            .iter()
            .filter_map(|intent| own(intent))
            .map(|own| own.host_interface.clone())
            .collect();
        let teardown = PendingTeardown {
            vm_uuid: uuid,
            links: links.clone(),
        };
        // From here on it is known what is left to do, whatever comes.
        if let Err(error) = self.pending_teardowns.record(teardown).await {
            let action = format!("note that container {uuid} is to be removed");
            return Err(vec![fail(action)(error)]);
        }
        let mut errors = Vec::new();
        let settled = self.retry_teardown(uuid).await;
        if let Err(problem) = settled {
            log::warn!(
                "network {network:?}: container {uuid} is not removed everywhere yet, it is tried again: {problem}"
            );
            // Nobody may be there to be told; what is here goes all the same.
            let (inner, network) = (self, &network);
            let deleted = links.into_iter().map(|link| async move {
                let deleted = inner.reaper.delete(link.clone()).await;
                deleted
                    .map_err(|error| failed(network, format!("remove the interface {link}"), error))
            });
            errors.extend(join_all(deleted).await.into_iter().filter_map(Result::err));
            let files = self.files.clone();
            let removed = blocking(move || Ok(files.remove(uuid)?)).await;
            errors.extend(
                removed
                    .map_err(fail("remove the port files".to_owned()))
                    .err(),
            );
        }
        self.machines().remove(&uuid);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}
