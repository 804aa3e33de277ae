//! Marathon's answers, read leniently: an answer is well formed as a whole or refused, but within
//! a list only the element that makes no sense is left out, and named.
//!
//! `null`, an absent field and one that nobody knows are the same everywhere.

mod raw;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::id::RunSpecId;
use super::model::{
    App, Labels, Listing, Mode, Network, Pod, PodContainer, PodInstance, PodNetwork, PodState,
    Skipped, Task,
};
use crate::intern::Interner;
use contrail_mesos_api::http::expect_object;
use raw::{Elements, RawApp, RawInstance, RawLabels, RawNetwork, RawPod, RawTask};

/// Reads answers, and remembers what it had to leave out.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) listing: Listing,
    names: Interner,
}

impl Reader {
    /// `GET /v2/apps?embed=apps.tasks`
    pub(super) fn apps(&mut self, body: &[u8]) -> Result<(), serde_json::Error> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            apps: Elements<'a>,
        }
        let answer: Answer<'_> = serde_json::from_slice(expect_object(body)?)?;
        for element in answer.apps {
            if let Some(app) = self.app_element(element) {
                self.listing.apps.push(app);
            }
        }
        Ok(())
    }

    /// `GET /v2/apps/ID?embed=app.tasks`
    pub(super) fn app(&mut self, body: &[u8]) -> Result<Option<App>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            app: &'a RawValue,
        }
        let answer: Answer<'_> = serde_json::from_slice(expect_object(body)?)?;
        Ok(self.app_element(answer.app))
    }

    /// `GET /v2/pods/::status`
    pub(super) fn pods(&mut self, body: &[u8]) -> Result<(), serde_json::Error> {
        let elements: Elements<'_> = serde_json::from_slice(body)?;
        for element in elements {
            if let Some(pod) = self.pod_element(element) {
                self.listing.pods.push(pod);
            }
        }
        Ok(())
    }

    /// `GET /v2/pods/ID::status`
    pub(super) fn pod(&mut self, body: &[u8]) -> Result<Option<Pod>, serde_json::Error> {
        let element: &RawValue = serde_json::from_slice(body)?;
        Ok(self.pod_element(element))
    }

    /// `GET /v2/tasks`, or the `tasks` of an app.
    pub(super) fn tasks(&mut self, body: &[u8]) -> Result<Vec<Task>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            tasks: Elements<'a>,
        }
        let answer: Answer<'_> = serde_json::from_slice(expect_object(body)?)?;
        Ok(self.task_elements(None, &answer.tasks))
    }

    fn skip(&mut self, kind: &'static str, id: Option<&str>, problem: &dyn std::fmt::Display) {
        self.listing.skipped.push(Skipped {
            kind,
            id: id.map(Into::into),
            problem: problem.to_string().into(),
        });
    }

    /// Reads one element, or leaves it out.
    fn element<'a, T: Deserialize<'a>>(
        &mut self,
        kind: &'static str,
        within: Option<&str>,
        element: &'a RawValue,
    ) -> Option<T> {
        serde_json::from_str(element.get())
            .inspect_err(|error| {
                let id = own_id(element);
                self.skip(kind, id.as_deref().or(within), &error);
            })
            .ok()
    }

    fn run_spec_id(&mut self, kind: &'static str, id: Option<&str>) -> Option<RunSpecId> {
        let parsed = id.and_then(RunSpecId::parse);
        if parsed.is_none() {
            self.skip(kind, id, &"it has no id that Marathon gives out");
        }
        parsed
    }

    fn app_element(&mut self, element: &RawValue) -> Option<App> {
        let raw: RawApp<'_> = self.element("app", None, element)?;
        let id = self.run_spec_id("app", raw.id.as_deref())?;
        let tasks = if let Some(tasks) = &raw.tasks {
            self.task_elements(Some(id.as_str()), tasks)
        } else {
            self.skip("app", Some(id.as_str()), &"its tasks are missing");
            return None;
        };
        Some(App {
            instances: raw.instances.unwrap_or(0),
            labels: labels(raw.labels),
            networks: self.networks(raw.networks),
            tasks,
            id,
        })
    }

    fn task_elements(&mut self, app: Option<&str>, elements: &[&RawValue]) -> Vec<Task> {
        let mut tasks: Vec<Task> = elements
            .iter()
            .filter_map(|element| self.task_element(app, element))
            .collect();
        tasks.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        tasks
    }

    fn task_element(&mut self, app: Option<&str>, element: &RawValue) -> Option<Task> {
        let raw: RawTask<'_> = self.element("task", app, element)?;
        let Some(id) = raw.id.filter(|id| !id.is_empty()) else {
            self.skip("task", app, &"it has no id");
            return None;
        };
        let addresses = raw.ip_addresses.unwrap_or_default();
        let addresses = addresses
            .iter()
            .flatten()
            .filter_map(|one| one.ip_address.as_deref());
        Some(Task {
            id: id.into(),
            state: raw.state,
            agent: self.names.optional(raw.slave_id.as_deref()),
            host: self.names.optional(raw.host.as_deref()),
            addresses: addresses.filter_map(address).collect(),
            staged: time(raw.staged_at.as_deref()),
            started: time(raw.started_at.as_deref()),
            version: self.names.optional(raw.version.as_deref()),
        })
    }

    fn pod_element(&mut self, element: &RawValue) -> Option<Pod> {
        let raw: RawPod<'_> = self.element("pod", None, element)?;
        let id = self.run_spec_id("pod", raw.id.as_deref())?;
        let Some(spec) = raw.spec else {
            self.skip("pod", Some(id.as_str()), &"its specification is missing");
            return None;
        };
        let instances = raw.instances.unwrap_or_default();
        let instances = instances
            .iter()
            .filter_map(|element| self.instance_element(id.as_str(), element))
            .collect();
        Some(Pod {
            labels: labels(spec.labels),
            networks: self.networks(spec.networks),
            instances,
            id,
        })
    }

    fn instance_element(&mut self, pod: &str, element: &RawValue) -> Option<PodInstance> {
        let raw: RawInstance<'_> = self.element("instance", Some(pod), element)?;
        let Some(id) = raw.id.filter(|id| !id.is_empty()) else {
            self.skip("instance", Some(pod), &"it has no id");
            return None;
        };
        let networks = raw.networks.unwrap_or_default();
        let networks = networks.into_iter().flatten().map(|network| PodNetwork {
            name: self.names.optional(network.name.as_deref()),
            addresses: network
                .addresses
                .unwrap_or_default()
                .iter()
                .flatten()
                .filter_map(|text| address(text))
                .collect(),
        });
        let networks = networks.collect();
        let containers = raw.containers.unwrap_or_default();
        let containers = containers.into_iter().flatten().map(|one| PodContainer {
            name: self.names.get(one.name.as_deref().unwrap_or_default()),
            task: one.container_id.map(Into::into),
            state: one.status,
        });
        Some(PodInstance {
            id: id.into(),
            state: pod_state(raw.status.as_deref()),
            networks,
            containers: containers.collect(),
            agent: self.names.optional(raw.agent_id.as_deref()),
            host: self.names.optional(raw.agent_hostname.as_deref()),
            since: time(raw.status_since.as_deref()),
        })
    }

    fn networks(&mut self, raw: Option<Vec<Option<RawNetwork<'_>>>>) -> Box<[Network]> {
        let raw = raw.unwrap_or_default();
        let networks = raw.into_iter().flatten().map(|network| Network {
            mode: match network.mode.as_deref() {
                Some("host") => Mode::Host,
                Some("container/bridge") => Mode::Bridge,
                Some("container") | None => Mode::Container,
                Some(_) => Mode::Unrecognised,
            },
            name: self.names.optional(network.name.as_deref()),
            labels: labels(network.labels),
        });
        networks.collect()
    }
}

/// The minor version that `GET /v2/info` names: 11 for 1.11.24.
pub(super) fn minor_version(body: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Info {
        version: String,
    }
    let info: Info = serde_json::from_slice(body).ok()?;
    let mut parts = info.version.split(['.', '-']);
    (parts.next()? == "1").then_some(())?;
    parts.next()?.parse().ok()
}

/// `GET /v2/leader`
pub(super) fn leader(body: &[u8]) -> Result<String, serde_json::Error> {
    #[derive(Deserialize)]
    struct Answer {
        leader: String,
    }
    serde_json::from_slice(body).map(|answer: Answer| answer.leader)
}

fn own_id(element: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let named: Named = serde_json::from_str(element.get()).ok()?;
    Some(named.id.chars().take(300).collect())
}

fn pod_state(word: Option<&str>) -> PodState {
    match word.unwrap_or_default() {
        "PENDING" => PodState::Pending,
        "STAGING" => PodState::Staging,
        "STABLE" => PodState::Stable,
        "DEGRADED" => PodState::Degraded,
        "TERMINAL" => PodState::Terminal,
        _ => PodState::Unrecognised,
    }
}

/// An address; network/cni leaves the prefix on those of IPv6.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

fn labels(labels: RawLabels<'_>) -> Labels {
    let labels = labels.0.into_iter();
    labels
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}
