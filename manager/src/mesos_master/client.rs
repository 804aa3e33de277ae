//! Calls to the leading master.

use std::sync::Arc;

use hyper::Method;
use hyper::body::Bytes;

use super::discover::Masters;
use super::json;
use super::model::State;
use contrail_mesos_api::http::{
    Address, AttemptError, CallError, CallErrorKind, Failover, LeaderClient, LeaderOptions,
    RequestSpec, Streaming, TlsError,
};

/// Options of a [`MasterClient`].
#[derive(Clone, Debug)]
pub struct MasterOptions {
    /// The masters.
    pub masters: Masters,
    /// Whether masters found in ZooKeeper use TLS.
    pub secure: bool,
    /// TLS, credentials and limits.
    pub access: LeaderOptions,
}

/// The client. Clones share connections.
#[derive(Clone, Debug)]
pub struct MasterClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: LeaderClient,
    masters: Masters,
    secure: bool,
}

fn call(operation: &str, body: &'static str) -> RequestSpec {
    RequestSpec {
        method: Method::POST,
        body: Some(Bytes::from_static(body.as_bytes())),
        ..RequestSpec::get(operation, "/api/v1")
    }
}

impl MasterClient {
    /// Creates a client without connecting. Reads certificate files: blocks on the file system.
    pub fn new(options: MasterOptions) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Inner {
            http: LeaderClient::new(options.access)?,
            masters: options.masters,
            secure: options.secure,
        })))
    }

    async fn masters(&self, spec: &RequestSpec) -> Result<Vec<Address>, CallError> {
        self.0.masters.find(self.0.secure).await.map_err(|problem| {
            CallError::without_server(&spec.operation, CallErrorKind::Discovery(problem))
        })
    }

    /// The whole state at one time.
    pub async fn state(&self) -> Result<State, CallError> {
        let spec = call("read the state of Mesos", r#"{"type":"GET_STATE"}"#);
        let (server, response) = self.send(&spec).await?;
        let failed = |problem| spec.failed(&server, problem);
        let body = response
            .collect()
            .await
            .map_err(|error| failed(error.into()))?
            .body;
        // Decoding a large state takes long.
        tokio::task::spawn_blocking(move || {
            json::state(&body).map_err(|error| CallErrorKind::invalid_response(&error, &body))
        })
        .await
        .unwrap_or_else(|error| Err(CallErrorKind::invalid_response(&error, b"")))
        .map_err(failed)
    }

    /// Opens the event stream.
    pub(super) async fn subscribe(&self) -> Result<(RequestSpec, Address, Streaming), CallError> {
        let spec = call("follow Mesos", r#"{"type":"SUBSCRIBE"}"#);
        let (server, response) = self.send(&spec).await?;
        Ok((spec, server, response))
    }

    /// Sends a call to one master after another, until one responds.
    async fn send(&self, spec: &RequestSpec) -> Result<(Address, Streaming), CallError> {
        let failover = Failover::new(self.masters(spec).await?);
        let masters = failover.servers();
        let attempt = |index: usize, _| async move {
            let response = self.0.http.open(masters, &masters[index], spec).await;
            response.map_err(AttemptError::Retry)
        };
        failover.try_each(attempt).await.map_err(|error| {
            error.unwrap_or_else(|| {
                let problem = "no master is configured".to_owned();
                CallError::without_server(&spec.operation, CallErrorKind::Discovery(problem))
            })
        })
    }
}
