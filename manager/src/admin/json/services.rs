//! The services, the names of tasks, and the services in the form of DC/OS.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use contrail_mesos_api::cluster::{Backend, BackendState, ServiceKey, TaskName, Vip};
use contrail_mesos_api::query::QueryParameters;
use contrail_mesos_api::routes::Operation;
use contrail_mesos_api::text::hex;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::filter::parse_address;
use super::paginate::{ListQuery, PageEnd, paginate};
use crate::admin::state::{AdminError, json_body};
use crate::services::{PublishedService, RangeUsage, ServiceCounts, Services};

/// How many problems are returned.
const MAX_PROBLEMS: usize = 1000;

/// Which services are requested: all that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceFilter {
    /// A part of the service's text.
    service: Option<String>,
    /// A part of the name of a framework.
    framework: Option<String>,
    /// An address of the service, of a backend or of its host, or the subnet of one.
    address: Option<IpNet>,
}

impl ServiceFilter {
    /// Documents these parameters.
    pub(super) fn document(operation: Operation) -> Operation {
        operation
            .query::<String>(
                "service",
                "A part of the service, such as web.marathon:80",
                "web",
            )
            .query::<String>("framework", "A part of the name of a framework", "marathon")
            .query::<String>(
                "address",
                "An address of a service, a backend or its host, or a subnet",
                "192.0.2.1",
            )
    }

    pub(super) fn read(parameters: &mut QueryParameters) -> Result<Self, AdminError> {
        let text = parameters.take("address");
        let address = text.map(|text| parse_address(text.trim())).transpose()?;
        let mut part = |name| parameters.take(name).map(|part| part.trim().to_owned());
        Ok(Self {
            service: part("service"),
            framework: part("framework"),
            address,
        })
    }

    fn matches(&self, key: &ServiceKey, published: &PublishedService) -> bool {
        let PublishedService {
            desired, service, ..
        } = published;
        let has_address = |net: IpNet| {
            let backends = service.backends.iter();
            let of_backends = backends.flat_map(|backend| {
                let local = backend.local.map(|local| local.ip());
                [backend.address.ip(), backend.host]
                    .into_iter()
                    .chain(local)
            });
            let mut addresses = service.addresses.iter().copied().chain(of_backends);
            addresses.any(|address: IpAddr| net.contains(&address))
        };
        let is_of_framework = |part: &String| {
            let mut frameworks = desired.frameworks.iter();
            frameworks.any(|framework| framework.contains(part))
        };
        self.service
            .as_ref()
            .is_none_or(|part| key.to_string().contains(part))
            && self.framework.as_ref().is_none_or(is_of_framework)
            && self.address.is_none_or(has_address)
    }
}

/// A service.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ServiceRow {
    pub service: String,
    /// The DNS name of a named service.
    pub name: Option<String>,
    pub addresses: Vec<IpAddr>,
    pub frameworks: Vec<String>,
    pub affinity: Option<u32>,
    /// How many backends get new connections.
    pub ready: usize,
    /// How many backends may be gone: Mesos does not say.
    pub kept: usize,
    pub backends: Vec<Backend>,
}

impl ServiceRow {
    fn new(key: &ServiceKey, published: &PublishedService) -> Self {
        let service = &published.service;
        let ready = service
            .backends
            .iter()
            .filter(|backend| backend.state == BackendState::Ready)
            .count();
        Self {
            service: key.to_string(),
            name: dns_name(&key.vip),
            addresses: service.addresses.clone(),
            frameworks: published.desired.frameworks.clone(),
            affinity: service.affinity,
            ready,
            kept: published.kept,
            backends: service.backends.clone(),
        }
    }
}

/// The whole DNS name of a named service.
fn dns_name(vip: &Vip) -> Option<String> {
    match vip {
        Vip::Name(name) => Some(format!(
            "{name}.{}",
            contrail_mesos_api::cluster::SERVICE_ZONE
        )),
        Vip::Address(_) => None,
    }
}

/// Those services that the filter accepts.
fn published(
    services: &Services,
    filter: &ServiceFilter,
) -> Vec<(ServiceKey, Arc<PublishedService>)> {
    let all: Vec<_> = services.read_state(|state| {
        let services = state.publication.services().iter();
        services
            .map(|(key, published)| (key.clone(), published.clone()))
            .collect()
    });
    let all = all.into_iter();
    all.filter(|(key, published)| filter.matches(key, published))
        .collect()
}

/// All services: those without a backend that gets new connections come first. The first `limit` of
/// them, and how many there are.
pub(crate) fn service_rows(services: &Services, limit: usize) -> (Vec<ServiceRow>, usize) {
    let mut all = published(services, &ServiceFilter::default());
    let is_well = |published: &PublishedService| {
        let backends = &published.service.backends;
        backends
            .iter()
            .any(|backend| backend.state == BackendState::Ready)
    };
    all.sort_by_cached_key(|(_, published)| is_well(published));
    let rows = all.iter().take(limit);
    let rows = rows.map(|(key, published)| ServiceRow::new(key, published));
    (rows.collect(), all.len())
}

/// Something that an operator or the owner of an app must change.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct ServiceProblemRow {
    framework: String,
    task: String,
    /// The label or port that it is about, as the framework wrote it.
    subject: String,
    message: String,
}

/// The services.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ServiceList {
    /// Whether all services are published.
    complete: bool,
    /// What the manager waits for, if it publishes nothing yet.
    waiting: Option<String>,
    counts: ServiceCounts,
    /// How much of the ranges of addresses is used.
    ranges: Vec<RangeUsage>,
    /// The first problems.
    problems: Vec<ServiceProblemRow>,
    /// How many more there are.
    more_problems: usize,
    services: Vec<ServiceRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The services, and their problems.
pub(super) fn services(
    services: &Services,
    filter: &ServiceFilter,
    query: &ListQuery,
) -> ServiceList {
    let rows = published(services, filter).into_iter();
    let rows = rows.map(|(key, published)| (key.to_string(), (key, published)));
    let page = paginate(rows, query.after.as_ref(), query.limit);
    let page = page.map(|_, (key, published)| ServiceRow::new(&key, &published));
    let (rows, page) = page.finish();
    services.read_state(|state| {
        let (problems, total) = state.publication.problems();
        let problems: Vec<_> = problems
            .iter()
            .take(MAX_PROBLEMS)
            .map(|problem| ServiceProblemRow {
                framework: problem.framework.clone(),
                task: problem.task.clone(),
                subject: problem.subject.clone(),
                message: problem.message.clone(),
            })
            .collect();
        ServiceList {
            complete: state.publication.is_complete(),
            waiting: state.waiting.clone(),
            counts: state.publication.counts(),
            ranges: state.usage.clone(),
            more_problems: total.saturating_sub(problems.len()),
            problems,
            services: rows,
            page,
        }
    })
}

/// Which names of tasks are requested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskNameFilter {
    /// A part of the name.
    name: Option<String>,
}

impl TaskNameFilter {
    /// Documents this parameter.
    pub(super) fn document(operation: Operation) -> Operation {
        operation.query::<String>("name", "A part of the name", "web")
    }

    pub(super) fn read(parameters: &mut QueryParameters) -> Self {
        Self {
            name: parameters.take("name").map(|part| part.trim().to_owned()),
        }
    }
}

/// The names of tasks.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct TaskNames {
    task_names: Vec<TaskName>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The names of tasks.
pub(super) fn task_names(
    services: &Services,
    filter: &TaskNameFilter,
    query: &ListQuery,
) -> TaskNames {
    let all: Vec<(String, Arc<TaskName>)> = services.read_state(|state| {
        let names = state.publication.task_names().iter();
        names
            .filter(|(name, _)| filter.name.as_ref().is_none_or(|part| name.contains(part)))
            .map(|(name, task_name)| (name.clone(), task_name.clone()))
            .collect()
    });
    let page = paginate(all, query.after.as_ref(), query.limit);
    let (task_names, page) = page.map(|_, name| TaskName::clone(&name)).finish();
    TaskNames { task_names, page }
}

/// A service in the form of DC/OS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct VipRow {
    vip: String,
    protocol: &'static str,
    backend: Vec<VipBackend>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct VipBackend {
    ip: IpAddr,
    port: u16,
}

impl VipRow {
    fn new(key: &ServiceKey, published: &PublishedService) -> Self {
        let vip = match &key.vip {
            Vip::Address(address) => format!("{address}:{}", key.port),
            Vip::Name(_) => {
                let name = dns_name(&key.vip).unwrap_or_default();
                format!("{name}:{}", key.port)
            }
        };
        let backends = published.service.backends.iter();
        let ready = backends.filter(|backend| backend.state == BackendState::Ready);
        Self {
            vip,
            protocol: key.protocol.as_str(),
            backend: ready
                .map(|backend| VipBackend {
                    ip: backend.address.ip(),
                    port: backend.address.port(),
                })
                .collect(),
        }
    }
}

/// The services in the form of DC/OS, unless the client has them already.
pub(super) fn vips(services: &Services, headers: &HeaderMap) -> Response {
    let rows: Vec<_> = published(services, &ServiceFilter::default())
        .iter()
        .map(|(key, published)| VipRow::new(key, published))
        .collect();
    // Serialization of these cannot fail.
    let body = serde_json::to_vec(&rows).unwrap_or_default();
    let tag = format!("\"{}\"", hex(&Sha256::digest(&body)[..16]));
    let is_known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().trim_start_matches("W/"))
        .any(|value| value == tag || value == "*");
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json_body(&rows)
    };
    // Hexadecimal digits and quotes are valid in headers.
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
