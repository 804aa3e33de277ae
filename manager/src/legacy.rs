//! The API of Contrail's own mesos-manager, for CNI plugins that were made for it.
//!
//! A plugin posts `{"cid", "cmd", "args"}`, where `args` is the text that Mesos gave it, and wants
//! its request back with 200. What differs from the original: the objects are there when it
//! answers, an error is not 200, and the labels `node-name` and `node-ip` mean nothing, since a
//! framework must not choose whose host its containers are attached to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Shared;
use super::error::ManagerError;
use super::labels;
use super::listener::Peer;
use super::standby;
use contrail_mesos_api::agent_api::{self, PortAddressRequest, PortRequest, PortsRequest};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::text::Quoted;

/// The routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/add_cni_info", post(add))
        .route("/del_cni_info", post(delete))
        .layer(from_fn_with_state(shared.clone(), standby::refuse))
        .route("/", get(links))
        .with_state(shared)
}

async fn links(headers: HeaderMap) -> Json<Value> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let base = format!("http://{}", host.unwrap_or("localhost"));
    let link = |name: &str| json!({"link": {"href": format!("{base}/{name}"), "name": name, "rel": "action", "method": null}});
    Json(json!({"href": base, "links": [link("add_cni_info"), link("del_cni_info")]}))
}

/// What a plugin posts.
#[derive(Debug, Deserialize)]
struct Posted {
    cid: String,
    #[serde(default)]
    args: String,
}

/// What Mesos gave a plugin. Of what it says otherwise nothing matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
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
    ip_addresses: Vec<Asked>,
    labels: Labels,
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
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

/// Whose host it is.
struct Host {
    agent: String,
    address: Option<IpAddr>,
}

struct Failed(ManagerError);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0.status(), self.0.to_string()).into_response()
    }
}

impl From<ManagerError> for Failed {
    fn from(error: ManagerError) -> Self {
        Self(error)
    }
}

async fn add(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Result<Response, Failed> {
    let posted = posted(&body)?;
    let given = given(&posted.args)?;
    let host = host(&given, &peer).ok_or_else(|| {
        ManagerError::invalid(
            "args: contrail.cluster-name is missing: the name of the host's virtual-router",
        )
    })?;
    let request = request(&posted.cid, &given, &host)?;
    shared.check_ready()?;
    let machine = agent_api::vm_uuid(&request.container);
    let containers = shared.containers.clone();
    let work = async move { containers.put(&host.agent, machine, &request).await };
    shared.to_the_end(work).await?;
    Ok(echo(body))
}

async fn delete(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Result<Response, Failed> {
    let posted = posted(&body)?;
    // What the plugin was given may be broken; the container is gone all the same.
    let host = given(&posted.args)
        .ok()
        .and_then(|given| host(&given, &peer));
    let machine = agent_api::vm_uuid(&ContainerId::printed(&posted.cid));
    let containers = shared.containers.clone();
    let work = async move {
        let agent = host.as_ref().map(|host| host.agent.as_str());
        containers.delete(agent, machine).await
    };
    shared.to_the_end(work).await?;
    Ok(echo(body))
}

fn echo(body: Bytes) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, "application/json")], body).into_response()
}

fn posted(body: &[u8]) -> Result<Posted, ManagerError> {
    serde_json::from_slice(body).map_err(|error| {
        ManagerError::invalid(format!(
            "the body is not {{\"cid\": …, \"cmd\": …, \"args\": \"…\"}}: {error}"
        ))
    })
}

fn given(args: &str) -> Result<Given, ManagerError> {
    serde_json::from_str(args).map_err(|error| {
        ManagerError::invalid(format!("args is not what a plugin is given: {error}"))
    })
}

fn host(given: &Given, peer: &Peer) -> Option<Host> {
    let address = given.contrail.vrouter_ip.as_deref();
    let address = address.and_then(|address| address.trim().parse::<IpAddr>().ok());
    // As shipped, the plugin's configuration says 127.0.0.1 on every host.
    let address = [address, Some(peer.address.ip())]
        .into_iter()
        .flatten()
        .find(|address| !address.is_loopback());
    let name = given.contrail.cluster_name.as_deref().map(str::trim);
    let agent = match name.filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => address?.to_string(),
    };
    Some(Host { agent, address })
}

fn request(cid: &str, given: &Given, host: &Host) -> Result<PortsRequest, ManagerError> {
    let mut problems = vec![];
    let agent = &host.agent;
    if agent.len() > 255
        || agent
            .chars()
            .any(|letter| letter.is_control() || "\"\\".contains(letter))
    {
        problems.push(format!(
            "contrail.cluster-name: {} is not a host's name",
            Quoted(agent.as_bytes())
        ));
    }
    let info = given
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
    let labels = info.labels.labels.iter();
    let labels: BTreeMap<String, String> = labels
        .map(|label| (label.key.clone(), label.value.clone()))
        .collect();
    let mut addresses = vec![];
    for asked in &info.ip_addresses {
        match address(asked) {
            Ok(address) => addresses.extend(address),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(ManagerError::Invalid(problems));
    }
    let network = info.name.unwrap_or_else(|| given.name.clone());
    let ports = labels::split_by_network(&labels).into_iter().enumerate();
    let ports = ports.map(|(index, labels)| PortRequest {
        interface: format!("eth{index}"),
        network: network.clone(),
        virtual_network: None,
        labels,
        // An address of one network is not another's.
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

fn address(asked: &Asked) -> Result<Option<PortAddressRequest>, String> {
    let text = asked.ip_address.as_deref().filter(|text| !text.is_empty());
    if let Some(text) = text {
        let address = text
            .parse()
            .map_err(|_| format!("{} is not an address", Quoted(text.as_bytes())))?;
        return Ok(Some(PortAddressRequest::Static(address)));
    }
    match asked.protocol.as_deref() {
        None => Ok(None),
        Some("IPv4") => Ok(Some(PortAddressRequest::V4)),
        Some("IPv6") => Ok(Some(PortAddressRequest::V6)),
        Some(other) => Err(format!(
            "{} is neither IPv4 nor IPv6",
            Quoted(other.as_bytes())
        )),
    }
}
