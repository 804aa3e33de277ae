//! Waiting for the agent: often at first, seldom later, to one deadline.

use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::answer::{InterfaceConfig, Plugged};
use super::client::VrouterClient;
use super::error::{Incomplete, Missing, NotReady, VrouterErrorKind};

/// How much of the time is kept for finding out what was missing.
const DIAGNOSIS: Duration = Duration::from_millis(250);

/// The delays between two calls. What takes milliseconds is noticed within milliseconds, and what
/// takes seconds costs the agent four calls a second.
pub(super) const BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(2), Duration::from_millis(250)).with_factor(1.6);

/// Which interfaces make a container complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// As many as their annotation `index` says.
    Annotated,
    /// These.
    These(&'a [Uuid]),
}

impl VrouterClient {
    /// Waits until the agent has been given every interface of a container. They come in the
    /// order of their index, or of [`Wanted::These`].
    pub async fn await_configuration(
        &self,
        machine: Uuid,
        wanted: Wanted<'_>,
        deadline: Instant,
    ) -> Result<Vec<InterfaceConfig>, NotReady> {
        let step = move || async move {
            match self.configuration(machine).await? {
                None => Err(Missing::Configuration),
                Some(interfaces) => match wanted {
                    Wanted::Annotated => by_index(interfaces),
                    Wanted::These(uuids) => by_uuid(&interfaces, uuids),
                },
            }
        };
        self.poll(machine, deadline, step).await
    }

    /// Waits until the agent knows an address of each of these interfaces, which must have been
    /// registered. They come in the order of `interfaces`.
    pub async fn await_addresses(
        &self,
        machine: Uuid,
        interfaces: &[Uuid],
        deadline: Instant,
    ) -> Result<Vec<Plugged>, NotReady> {
        let step = move || async move {
            match self.addresses(machine).await? {
                None => Err(Missing::Address),
                Some(plugged) => with_addresses(&plugged, interfaces),
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let until = deadline - DIAGNOSIS.min(left / 10);
        let not_ready = match self.poll(machine, until, step).await {
            Err(not_ready) if not_ready.missing == Missing::Address => not_ready,
            result => return result,
        };
        // One answer has many reasons; the other question tells two of them apart.
        let withdrawn = matches!(
            timeout_at(deadline, self.configuration(machine)).await,
            Ok(Ok(None))
        );
        Err(NotReady {
            missing: if withdrawn {
                Missing::Withdrawn
            } else {
                Missing::Address
            },
            ..not_ready
        })
    }

    async fn poll<T, F>(
        &self,
        machine: Uuid,
        deadline: Instant,
        step: impl Fn() -> F,
    ) -> Result<T, NotReady>
    where
        F: Future<Output = Result<T, Missing>>,
    {
        let started = Instant::now();
        let mut delays = BACKOFF.delays();
        let mut last = None;
        loop {
            match timeout_at(deadline, step()).await {
                Ok(Ok(ready)) => return Ok(ready),
                Ok(Err(missing)) => last = Some(missing),
                Err(_) => break,
            }
            if !delays.sleep_before(deadline).await {
                break;
            }
        }
        Err(NotReady {
            machine,
            waited: started.elapsed(),
            missing: last.unwrap_or_else(|| {
                let problem = "no answer until the deadline".to_owned();
                let kind = VrouterErrorKind::Unanswered { problem };
                Missing::Agent(self.error(&format!("ask for {machine}"), kind))
            }),
        })
    }
}

/// The interfaces in the order of their index, once all are there. The agent sorts by uuid.
fn by_index(interfaces: Vec<InterfaceConfig>) -> Result<Vec<InterfaceConfig>, Missing> {
    let mut indexed = vec![];
    for interface in interfaces {
        let Some(index) = interface.index() else {
            return Err(Missing::Index {
                interface: interface.interface,
            });
        };
        indexed.push((index, interface));
    }
    indexed.sort_by_key(|(index, _)| *index);
    let count = indexed.len();
    let complete = indexed
        .iter()
        .enumerate()
        .all(|(place, ((index, of), _))| *index == place && *of == count);
    if complete {
        Ok(indexed
            .into_iter()
            .map(|(_, interface)| interface)
            .collect())
    } else {
        let have = indexed.into_iter().map(|(index, _)| index).collect();
        Err(Missing::Interfaces(Incomplete::Indices { have }))
    }
}

fn by_uuid(
    interfaces: &[InterfaceConfig],
    wanted: &[Uuid],
) -> Result<Vec<InterfaceConfig>, Missing> {
    let (found, without) = choose(interfaces, wanted, |interface| interface.interface);
    if without.is_empty() {
        Ok(found)
    } else {
        Err(Missing::Interfaces(Incomplete::Uuids { without }))
    }
}

fn with_addresses(plugged: &[Plugged], wanted: &[Uuid]) -> Result<Vec<Plugged>, Missing> {
    let (found, mut without) = choose(plugged, wanted, |plugged| plugged.interface);
    without.extend(
        found
            .iter()
            .filter(|plugged| plugged.v4.is_none() && plugged.v6.is_none())
            .map(|plugged| plugged.interface),
    );
    if without.is_empty() {
        Ok(found)
    } else {
        Err(Missing::AddressOf {
            interfaces: without,
        })
    }
}

/// Those of the wanted ones that are there, in order, and the others.
fn choose<T: Clone>(items: &[T], wanted: &[Uuid], uuid: fn(&T) -> Uuid) -> (Vec<T>, Vec<Uuid>) {
    let mut found = vec![];
    let mut without = vec![];
    for wanted in wanted {
        match items.iter().find(|item| uuid(item) == *wanted) {
            Some(item) => found.push(item.clone()),
            None => without.push(*wanted),
        }
    }
    (found, without)
}
