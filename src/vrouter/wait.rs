//! Polls the agent until a container is ready, or to a deadline.

use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::answer::{InterfaceConfig, InterfaceStatus};
use super::client::VrouterClient;
use super::error::{Incomplete, Missing, NotReady, VrouterErrorKind};

/// The time reserved for finding out what is missing.
const DIAGNOSIS_TIME: Duration = Duration::from_millis(250);

/// The delays between two calls: an event after milliseconds is noticed within milliseconds, and a
/// long wait costs the agent four calls a second.
pub(super) const BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(2), Duration::from_millis(250)).with_factor(1.6);

/// The interfaces that a container waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedPorts<'a> {
    /// The number in the annotation `index` of each interface.
    Annotated,
    /// These virtual-machine-interfaces.
    Uuids(&'a [Uuid]),
}

impl VrouterClient {
    /// Waits until the agent has the configuration of every interface of a container. Returns them
    /// in the order of their index, or of [`ExpectedPorts::Uuids`].
    pub async fn await_configuration(
        &self,
        machine: Uuid,
        expected: ExpectedPorts<'_>,
        deadline: Instant,
    ) -> Result<Vec<InterfaceConfig>, NotReady> {
        let step = move || async move {
            match self.configuration(machine).await? {
                None => Err(Missing::Configuration),
                Some(interfaces) => match expected {
                    ExpectedPorts::Annotated => by_index(interfaces),
                    ExpectedPorts::Uuids(uuids) => by_uuid(&interfaces, uuids),
                },
            }
        };
        self.poll(machine, deadline, step).await
    }

    /// Waits until the agent has an address for each of these registered interfaces. Returns them
    /// in the order of `interfaces`.
    pub async fn await_addresses(
        &self,
        machine: Uuid,
        interfaces: &[Uuid],
        deadline: Instant,
    ) -> Result<Vec<InterfaceStatus>, NotReady> {
        let step = move || async move {
            match self.addresses(machine).await? {
                None => Err(Missing::Address),
                Some(statuses) => with_addresses(&statuses, interfaces),
            }
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        let until = deadline - DIAGNOSIS_TIME.min(remaining / 10);
        let not_ready = match self.poll(machine, until, step).await {
            Err(not_ready) if not_ready.missing == Missing::Address => not_ready,
            result => return result,
        };
        // Without an address, the configuration may be gone too, which has other causes.
        let is_withdrawn = matches!(
            timeout_at(deadline, self.configuration(machine)).await,
            Ok(Ok(None))
        );
        Err(NotReady {
            missing: if is_withdrawn {
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
                let problem = "no response before the deadline".to_owned();
                let kind = VrouterErrorKind::Unanswered { problem };
                Missing::Agent(self.error(&format!("read the state of {machine}"), kind))
            }),
        })
    }
}

/// The interfaces in the order of their index, if all are there. The agent sorts them by uuid.
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
        let present = indexed.into_iter().map(|(index, _)| index).collect();
        Err(Missing::Interfaces(Incomplete::Indices { present }))
    }
}

fn by_uuid(
    interfaces: &[InterfaceConfig],
    expected: &[Uuid],
) -> Result<Vec<InterfaceConfig>, Missing> {
    let (found, missing) = select(interfaces, expected, |interface| interface.interface);
    if missing.is_empty() {
        Ok(found)
    } else {
        Err(Missing::Interfaces(Incomplete::Uuids { missing }))
    }
}

fn with_addresses(
    statuses: &[InterfaceStatus],
    expected: &[Uuid],
) -> Result<Vec<InterfaceStatus>, Missing> {
    let (found, mut missing) = select(statuses, expected, |status| status.interface);
    missing.extend(
        found
            .iter()
            .filter(|status| status.v4.is_none() && status.v6.is_none())
            .map(|status| status.interface),
    );
    if missing.is_empty() {
        Ok(found)
    } else {
        Err(Missing::AddressOf {
            interfaces: missing,
        })
    }
}

/// The expected items in order, and the uuids of the missing ones.
fn select<T: Clone>(items: &[T], expected: &[Uuid], uuid: fn(&T) -> Uuid) -> (Vec<T>, Vec<Uuid>) {
    let mut found = vec![];
    let mut missing = vec![];
    for expected_uuid in expected {
        match items.iter().find(|item| uuid(item) == *expected_uuid) {
            Some(item) => found.push(item.clone()),
            None => missing.push(*expected_uuid),
        }
    }
    (found, missing)
}
