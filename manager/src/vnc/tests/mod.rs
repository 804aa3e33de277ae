//! Tests of the client against a scripted server with recorded responses.

mod auth;
mod errors;
mod failover;
mod lists;
mod objects;
mod simulator;

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use contrail_mesos_api::http::Limits;
use contrail_mesos_api::http::scripted::{Reply, ScriptedServer, ok};

const VM: &str = "e33cd325-e13e-4334-a837-36be5ba45791";
const OTHER: &str = "777ac05d-da01-4d18-837a-f5b41f3b7a84";

fn uuid(text: &str) -> uuid::Uuid {
    text.parse().unwrap()
}

fn options(servers: &[SocketAddr]) -> VncOptions {
    let servers = servers
        .iter()
        .map(|address| server_address(&address.to_string()).unwrap())
        .collect();
    VncOptions {
        limits: Limits {
            request_timeout: Duration::from_secs(20),
            ..Limits::default()
        },
        call_timeout: Duration::from_secs(40),
        ..VncOptions::new(servers)
    }
}

fn client(server: &ScriptedServer) -> VncClient {
    VncClient::new(options(&[server.address])).unwrap()
}

/// An address without a listener.
fn unused_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn machine() -> VirtualMachine {
    let mut machine = VirtualMachine::named(FqName::new([VM]));
    machine.common.uuid = Some(uuid(VM));
    machine.server_type = Some("container".to_owned());
    machine
}

fn created_reply(request: &contrail_mesos_api::http::scripted::ReceivedRequest) -> Reply {
    let body = request.json();
    let (object_type, object) = body.as_object().unwrap().iter().next().unwrap();
    ok(&serde_json::json!({ object_type: { "uuid": object["uuid"], "href": "http://10.0.0.1/" } }))
}
