//! The API of Contrail's own mesos-manager, for its CNI plugins.
//!
//! A plugin posts `{"cid", "cmd", "args"}`, where `args` is a string with the JSON that Mesos gave it,
//! and expects status 200 and its request as the body. Differences from the original: the objects
//! exist when the response is sent, an error is not status 200, and the labels `node-name` and
//! `node-ip` are ignored, because a framework must not choose the host of its containers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ApiState, standby};
use crate::containers::Containers;
use crate::error::ManagerError;
use crate::labels::{self, NETWORKS};
use crate::listener::{AllowedHosts, BodyLimits, Peer, check_host, receive_body};
use contrail_mesos_api::agent_api::{self, PortAddressRequest, PortRequest, PortsRequest};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::limits;
use contrail_mesos_api::routes::{Document, Operation, Routes};
use contrail_mesos_api::text::Quoted;

/// Enough for every container that the limits below allow.
const MAX_BODY_BYTES: usize = 256 << 10;
/// The longest container id, with the ids of its parents.
const MAX_ID_BYTES: usize = MAX_ID_PARTS * (limits::MAX_CONTAINER_ID_BYTES + 1);
const MAX_ID_PARTS: usize = limits::MAX_CONTAINER_DEPTH + 1;

/// What the handlers share.
#[derive(Debug)]
struct LegacyState {
    api: Arc<ApiState>,
    containers: Arc<Containers>,
}

/// The routes.
pub(crate) fn router(
    api: Arc<ApiState>,
    containers: Arc<Containers>,
    hosts: Arc<AllowedHosts>,
) -> Router {
    let body = BodyLimits {
        max_bytes: MAX_BODY_BYTES,
        timeout: api.body_timeout,
    };
    let state = Arc::new(LegacyState {
        api: api.clone(),
        containers,
    });
    plugin_routes()
        .into_router()
        .layer(from_fn_with_state(api, standby::refuse))
        .merge(open_routes().into_router())
        .layer(from_fn_with_state(body, receive_body))
        .layer(from_fn_with_state(hosts, check_host))
        .with_state(state)
}

fn refuse_query(problem: &str) -> Response {
    LegacyError(ManagerError::invalid(problem)).into_response()
}

/// The routes that a standby refuses, with their documentation.
fn plugin_routes() -> Routes<Arc<LegacyState>> {
    let example = json!({
        "cid": "5c0b2b52-4b38-4c43-a8d5-6a1d64b6f5a1",
        "cmd": "ADD",
        "args": r#"{"name": "blue", "contrail": {"cluster-name": "node1"}}"#,
    });
    let operation = |operation: Operation| {
        operation
            .body::<PluginRequest>("The plugin's request", example.clone())
            .json::<PluginRequest>(200, "The request, as it was sent")
            .text(400, "The request is wrong.")
            .text(
                403,
                "The container belongs to another host, or the request is of a foreign page.",
            )
            .text(404, "Something that is needed does not exist.")
            .text(
                409,
                "An address is taken, a subnet used up, or a quota reached.",
            )
            .text(
                502,
                "The VNC API has refused, or has answered something else.",
            )
            .error(
                503,
                "This manager does not lead: the plugin asks the leader.",
            )
            .text(503, "")
            .text(504, "The VNC API does not answer: try again.")
    };
    Routes::new(refuse_query)
        .route(
            operation(Operation::post(
                "/add_cni_info",
                "Creates the ports of a container",
            ))
            .notes("When the response is sent, the objects exist."),
            add,
        )
        .route(
            operation(Operation::post(
                "/del_cni_info",
                "Deletes the ports of a container",
            ))
            .notes("The configuration in `args` may be invalid."),
            delete,
        )
}

/// The routes that any manager answers, with their documentation.
fn open_routes() -> Routes<Arc<LegacyState>> {
    Routes::new(refuse_query)
        .route(
            Operation::get("/", "The paths for plugins")
                .ignoring_unknown_parameters()
                .json::<Links>(200, "The paths, in the form of Contrail's own manager"),
            links,
        )
        .document(document)
}

const DESCRIPTION: &str = "\
The API of Contrail's own mesos-manager, for its CNI plugins. It is unauthenticated: requests for foreign \
host names and of foreign pages are refused with 403.

- An error is text, but for those of a manager that does not lead, which are JSON.
- An unknown path is answered with 404, another method with 405.";

/// The document as text, made once.
pub(super) fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
        let document = Document {
            title: "contrail-mesos-manager: CNI plugins",
            version: env!("CARGO_PKG_VERSION"),
            description: DESCRIPTION,
            security_schemes: json!({}),
            security: json!([]),
            operations: plugin_routes().merge(open_routes()).into_operations(),
        };
        document.to_text()
    });
    DOCUMENT.clone()
}

/// The paths, as Contrail's own manager shows them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Links {
    href: String,
    links: Vec<LinkEntry>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
struct LinkEntry {
    link: Link,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Link {
    href: String,
    name: &'static str,
    rel: &'static str,
    method: Option<String>,
}

async fn links(headers: HeaderMap) -> Json<Links> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let base = format!("http://{}", host.unwrap_or("localhost"));
    let link = |name| LinkEntry {
        link: Link {
            href: format!("{base}/{name}"),
            name,
            rel: "action",
            method: None,
        },
    };
    Json(Links {
        links: vec![link("add_cni_info"), link("del_cni_info")],
        href: base.clone(),
    })
}

/// The body of a plugin's request.
#[derive(Debug, Deserialize, JsonSchema)]
struct PluginRequest {
    /// The container's id, as Mesos prints it.
    cid: String,
    /// The plugin's configuration: JSON in a string.
    #[serde(default)]
    args: String,
    /// What the plugin was called for. The path says it, too.
    #[serde(default, rename = "cmd")]
    #[schemars(with = "String")]
    _command: IgnoredAny,
}

/// The plugin's configuration, as Mesos passes it; other fields are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PluginConfig {
    args: BTreeMap<String, Value>,
    contrail: Contrail,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Contrail {
    cluster_name: Option<String>,
    vrouter_ip: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetworkInfo {
    ip_addresses: Vec<AddressRequest>,
    labels: Labels,
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AddressRequest {
    protocol: Option<String>,
    ip_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    labels: Vec<Label>,
}

#[derive(Debug, Deserialize)]
struct Label {
    key: String,
    #[serde(default)]
    value: String,
}

/// The host of a container.
struct Host {
    agent: String,
    address: Option<IpAddr>,
}

struct LegacyError(ManagerError);

impl IntoResponse for LegacyError {
    fn into_response(self) -> Response {
        (self.0.status(), self.0.to_string()).into_response()
    }
}

impl From<ManagerError> for LegacyError {
    fn from(error: ManagerError) -> Self {
        Self(error)
    }
}

async fn add(
    State(state): State<Arc<LegacyState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Result<Response, LegacyError> {
    let posted = parse_request(&body)?;
    let config = parse_config(&posted.args)?;
    let host = find_host(&config, &peer).ok_or_else(|| {
        ManagerError::invalid(
            "args: contrail.cluster-name is missing: the name of the host's virtual-router",
        )
    })?;
    let max_ports = state.containers.max_ports();
    let request = ports_request(&posted.cid, &config, &host, max_ports)?;
    state.api.check_ready()?;
    let machine = agent_api::vm_uuid(&request.container);
    let containers = state.containers.clone();
    let work = async move { containers.put(&host.agent, machine, &request).await };
    state.api.run_to_completion(work).await?;
    Ok(echo(body))
}

async fn delete(
    State(state): State<Arc<LegacyState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Result<Response, LegacyError> {
    let posted = parse_request(&body)?;
    // The container is gone even if the configuration is invalid.
    let host = parse_config(&posted.args)
        .ok()
        .and_then(|config| find_host(&config, &peer));
    let machine = agent_api::vm_uuid(&ContainerId::printed(&posted.cid));
    let containers = state.containers.clone();
    let work = async move {
        let agent = host.as_ref().map(|host| host.agent.as_str());
        containers.delete(agent, machine).await
    };
    state.api.run_to_completion(work).await?;
    Ok(echo(body))
}

fn echo(body: Bytes) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, "application/json")], body).into_response()
}

fn parse_request(body: &[u8]) -> Result<PluginRequest, ManagerError> {
    let request: PluginRequest = serde_json::from_slice(body).map_err(|error| {
        ManagerError::invalid(format!(
            "the body is not {{\"cid\": …, \"cmd\": …, \"args\": \"…\"}}: {error}"
        ))
    })?;
    let length = request.cid.len();
    let depth = request.cid.split('.').count();
    if length > MAX_ID_BYTES || depth > MAX_ID_PARTS {
        return Err(ManagerError::invalid(format!(
            "cid: {length} bytes in {depth} parts are more than {MAX_ID_BYTES} in {MAX_ID_PARTS}"
        )));
    }
    Ok(request)
}

fn parse_config(args: &str) -> Result<PluginConfig, ManagerError> {
    serde_json::from_str(args).map_err(|error| {
        ManagerError::invalid(format!("args is not a plugin's configuration: {error}"))
    })
}

fn find_host(config: &PluginConfig, peer: &Peer) -> Option<Host> {
    let address = config.contrail.vrouter_ip.as_deref();
    let address = address.and_then(|address| address.trim().parse::<IpAddr>().ok());
    // The configuration that Contrail ships has 127.0.0.1 on every host.
    let address = [address, Some(peer.address.ip())]
        .into_iter()
        .flatten()
        .find(|address| !address.is_loopback());
    let name = config.contrail.cluster_name.as_deref().map(str::trim);
    let agent = match name.filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => address?.to_string(),
    };
    Some(Host { agent, address })
}

fn ports_request(
    cid: &str,
    config: &PluginConfig,
    host: &Host,
    max_ports: usize,
) -> Result<PortsRequest, ManagerError> {
    let mut problems = vec![];
    let agent = &host.agent;
    if agent.len() > 255
        || agent
            .chars()
            .any(|character| character.is_control() || "\"\\".contains(character))
    {
        problems.push(format!(
            "contrail.cluster-name: {} is not a host's name",
            Quoted(agent.as_bytes())
        ));
    }
    let info = config
        .args
        .get("org.apache.mesos")
        .and_then(|mesos| mesos.get("network_info"));
    let info: NetworkInfo = match info.map(serde_path_to_error::deserialize) {
        None => NetworkInfo::default(),
        Some(Ok(info)) => info,
        Some(Err(error)) => {
            problems.push(format!("network_info: {error}"));
            NetworkInfo::default()
        }
    };
    // Before anything is split or copied.
    problems.extend(exceeded_limits(&info, max_ports));
    if !problems.is_empty() {
        return Err(ManagerError::Invalid(problems));
    }
    let labels: BTreeMap<String, String> = info
        .labels
        .labels
        .into_iter()
        .map(|label| (label.key, label.value))
        .collect();
    let mut addresses = vec![];
    for request in &info.ip_addresses {
        match parse_address(request) {
            Ok(address) => addresses.extend(address),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(ManagerError::Invalid(problems));
    }
    let network = info.name.unwrap_or_else(|| config.name.clone());
    let ports = labels::split_by_network(&labels).into_iter().enumerate();
    let ports = ports.map(|(index, labels)| PortRequest {
        interface: format!("eth{index}"),
        network: network.clone(),
        virtual_network: None,
        labels,
        // The addresses are of the first network.
        addresses: if index == 0 {
            addresses.clone()
        } else {
            vec![]
        },
    });
    Ok(PortsRequest {
        container: ContainerId::printed(cid),
        virtual_router_address: host.address,
        annotations: BTreeMap::new(),
        ports: ports.collect(),
    })
}

/// What is longer than it may be.
fn exceeded_limits(info: &NetworkInfo, max_ports: usize) -> Vec<String> {
    let mut problems = vec![];
    let labels = &info.labels.labels;
    let bytes = labels
        .iter()
        .map(|label| label.key.len() + label.value.len());
    for (what, count, max) in [
        ("labels", labels.len(), limits::MAX_LABELS),
        ("bytes of labels", bytes.sum(), limits::MAX_LABEL_BYTES),
        ("addresses", info.ip_addresses.len(), limits::MAX_ADDRESSES),
    ] {
        if count > max {
            problems.push(format!("network_info: {count} {what} are more than {max}"));
        }
    }
    let max_networks = max_ports.min(limits::MAX_NETWORKS);
    for label in labels.iter().filter(|label| label.key == NETWORKS) {
        let names = label
            .value
            .split(',')
            .filter(|name| !name.trim().is_empty());
        let count = names.count();
        if count > max_networks {
            problems.push(format!(
                "label {NETWORKS}: {count} networks are more than {max_networks}"
            ));
            break;
        }
    }
    problems
}

fn parse_address(request: &AddressRequest) -> Result<Option<PortAddressRequest>, String> {
    let text = request
        .ip_address
        .as_deref()
        .filter(|text| !text.is_empty());
    if let Some(text) = text {
        let address = text
            .parse()
            .map_err(|_| format!("{} is not an address", Quoted(text.as_bytes())))?;
        return Ok(Some(PortAddressRequest::Static(address)));
    }
    match request.protocol.as_deref() {
        None => Ok(None),
        Some("IPv4") => Ok(Some(PortAddressRequest::V4)),
        Some("IPv6") => Ok(Some(PortAddressRequest::V6)),
        Some(other) => Err(format!(
            "{} is neither IPv4 nor IPv6",
            Quoted(other.as_bytes())
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use contrail_mesos_api::parser_testing::for_damaged_input;

    use super::*;

    const MAX_PORTS: usize = 8;

    /// What a plugin's body asks for, or why not.
    fn parse(body: &[u8]) -> Result<PortsRequest, ManagerError> {
        let posted = parse_request(body)?;
        let config = parse_config(&posted.args)?;
        let peer = Peer {
            address: SocketAddr::from(([10, 0, 0, 1], 1234)),
            names: Arc::new([]),
        };
        let host = find_host(&config, &peer).expect("the peer has an address");
        ports_request(&posted.cid, &config, &host, MAX_PORTS)
    }

    fn body(args: &[u8]) -> Vec<u8> {
        let args = String::from_utf8_lossy(args);
        let body = json!({ "cid": "a1.b2", "cmd": "ADD", "args": args });
        body.to_string().into_bytes()
    }

    fn args() -> String {
        json!({
            "name": "contrail-cni-plugin",
            "contrail": { "cluster-name": "node1", "vrouter-ip": "10.84.22.27" },
            "args": { "org.apache.mesos": { "network_info": {
                "name": "contrail-cni-plugin",
                "ip_addresses": [{ "protocol": "IPv4" }, { "ip_address": "fd00:5::9" }],
                "labels": { "labels": [
                    { "key": "networks", "value": "blue,tenants:shop:red" },
                    { "key": "floating-ips", "value": "d:p:n:pool(1.2.3.4)" },
                ] },
            } } },
        })
        .to_string()
    }

    #[track_caller]
    fn check(body: &[u8]) {
        match parse(body) {
            Ok(request) => {
                assert!(!request.ports.is_empty() && request.ports.len() <= MAX_PORTS);
                assert!(request.ports[0].addresses.len() <= limits::MAX_ADDRESSES);
            }
            Err(error) => {
                assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{error}");
                let text = error.to_string();
                let has_control = text.chars().any(char::is_control);
                assert!(!text.is_empty() && !has_control, "{text:?}");
            }
        }
    }

    #[test]
    fn damaged_input_never_panics() {
        assert_eq!(parse(&body(args().as_bytes())).unwrap().ports.len(), 2);
        // The body, and the configuration in it, which is a string of its own.
        for_damaged_input(&body(args().as_bytes()), check);
        for_damaged_input(args().as_bytes(), |args| check(&body(args)));
    }
}
