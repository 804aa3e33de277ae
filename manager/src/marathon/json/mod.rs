//! Lenient decoding of Marathon's responses: a response must be well-formed JSON, but within a list
//! an invalid element is skipped and reported.
//!
//! `null` equals an absent field, and unknown fields are ignored.

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

/// Decodes responses, and collects the skipped elements.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) listing: Listing,
    names: Interner,
}

impl Reader {
    /// `GET /v2/apps?embed=apps.tasks`
    pub(super) fn apps(&mut self, body: &[u8]) -> Result<(), serde_json::Error> {
        #[derive(Deserialize)]
        struct AppsResponse<'a> {
            #[serde(borrow)]
            apps: Elements<'a>,
        }
        let response: AppsResponse<'_> = serde_json::from_slice(expect_object(body)?)?;
        for element in response.apps {
            if let Some(app) = self.app_element(element) {
                self.listing.apps.push(app);
            }
        }
        Ok(())
    }

    /// `GET /v2/apps/ID?embed=app.tasks`
    pub(super) fn app(&mut self, body: &[u8]) -> Result<Option<App>, serde_json::Error> {
        #[derive(Deserialize)]
        struct AppResponse<'a> {
            #[serde(borrow)]
            app: &'a RawValue,
        }
        let response: AppResponse<'_> = serde_json::from_slice(expect_object(body)?)?;
        Ok(self.app_element(response.app))
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
        struct TasksResponse<'a> {
            #[serde(borrow)]
            tasks: Elements<'a>,
        }
        let response: TasksResponse<'_> = serde_json::from_slice(expect_object(body)?)?;
        Ok(self.task_elements(None, &response.tasks))
    }

    fn skip(&mut self, kind: &'static str, id: Option<&str>, problem: &dyn std::fmt::Display) {
        self.listing.skipped.push(Skipped {
            kind,
            id: id.map(Into::into),
            problem: problem.to_string().into(),
        });
    }

    /// Decodes one element, or skips it.
    fn element<'a, T: Deserialize<'a>>(
        &mut self,
        kind: &'static str,
        parent: Option<&str>,
        element: &'a RawValue,
    ) -> Option<T> {
        serde_json::from_str(element.get())
            .inspect_err(|error| {
                let id = id_of_element(element);
                self.skip(kind, id.as_deref().or(parent), &error);
            })
            .ok()
    }

    fn run_spec_id(&mut self, kind: &'static str, id: Option<&str>) -> Option<RunSpecId> {
        let parsed = id.and_then(RunSpecId::parse);
        if parsed.is_none() {
            self.skip(kind, id, &"it has no valid id");
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
        tasks.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        tasks
    }

    fn task_element(&mut self, app: Option<&str>, element: &RawValue) -> Option<Task> {
        let raw: RawTask<'_> = self.element("task", app, element)?;
        let Some(id) = raw.id.filter(|id| !id.is_empty()) else {
            self.skip("task", app, &"it has no id");
            return None;
        };
        let addresses = raw
            .ip_addresses
            .iter()
            .flatten()
            .flatten()
            .filter_map(|raw| address(raw.ip_address.as_deref()?))
            .collect();
        Some(Task {
            id: id.into(),
            state: raw.state,
            agent: self.names.optional(raw.slave_id.as_deref()),
            host: self.names.optional(raw.host.as_deref()),
            addresses,
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
        let instances = raw
            .instances
            .iter()
            .flatten()
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
        let networks = raw
            .networks
            .into_iter()
            .flatten()
            .flatten()
            .map(|network| PodNetwork {
                name: self.names.optional(network.name.as_deref()),
                addresses: network
                    .addresses
                    .iter()
                    .flatten()
                    .flatten()
                    .filter_map(|text| address(text))
                    .collect(),
            })
            .collect();
        let containers = raw
            .containers
            .into_iter()
            .flatten()
            .flatten()
            .map(|container| PodContainer {
                name: self
                    .names
                    .get(container.name.as_deref().unwrap_or_default()),
                task: container.container_id.map(Into::into),
                state: container.status,
            })
            .collect();
        Some(PodInstance {
            id: id.into(),
            state: pod_state(raw.status.as_deref()),
            networks,
            containers,
            agent: self.names.optional(raw.agent_id.as_deref()),
            host: self.names.optional(raw.agent_hostname.as_deref()),
            since: time(raw.status_since.as_deref()),
        })
    }

    fn networks(&mut self, raw: Option<Vec<Option<RawNetwork<'_>>>>) -> Box<[Network]> {
        raw.into_iter()
            .flatten()
            .flatten()
            .map(|network| Network {
                mode: match network.mode.as_deref() {
                    Some("host") => Mode::Host,
                    Some("container/bridge") => Mode::Bridge,
                    Some("container") | None => Mode::Container,
                    Some(_) => Mode::Unrecognised,
                },
                name: self.names.optional(network.name.as_deref()),
                labels: labels(network.labels),
            })
            .collect()
    }
}

/// The minor version in `GET /v2/info`: 11 for 1.11.24.
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
    struct LeaderResponse {
        leader: String,
    }
    serde_json::from_slice(body).map(|response: LeaderResponse| response.leader)
}

fn id_of_element(element: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct ElementId {
        id: String,
    }
    let element: ElementId = serde_json::from_str(element.get()).ok()?;
    Some(element.id.chars().take(300).collect())
}

fn pod_state(name: Option<&str>) -> PodState {
    match name.unwrap_or_default() {
        "PENDING" => PodState::Pending,
        "STAGING" => PodState::Staging,
        "STABLE" => PodState::Stable,
        "DEGRADED" => PodState::Degraded,
        "TERMINAL" => PodState::Terminal,
        _ => PodState::Unrecognised,
    }
}

/// Parses an address. `network/cni` appends the prefix length to IPv6 addresses.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

fn labels(labels: RawLabels<'_>) -> Labels {
    labels
        .0
        .into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}
