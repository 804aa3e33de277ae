//! Requests to Marathon: server selection and decoding of responses.

use std::sync::{Arc, Mutex, PoisonError};

use super::event::EVENT_TYPES;
use super::id::RunSpecId;
use super::json::{self, Reader};
use super::model::{App, Listing, Pod, Task};
use contrail_mesos_api::http::{
    Address, AttemptError, CallError, CallErrorKind, Failover, LeaderClient, LeaderOptions,
    RequestSpec, Streaming, TlsError,
};

/// Marathon's default port.
pub const DEFAULT_PORT: u16 = 8080;

/// Options of a [`MarathonClient`].
#[derive(Clone, Debug)]
pub struct MarathonOptions {
    /// The servers of one Marathon cluster, or a proxy in front of them.
    pub servers: Vec<Address>,
    /// TLS, credentials and limits.
    pub access: LeaderOptions,
}

/// The client. Clones share connections and the known leader.
#[derive(Clone, Debug)]
pub struct MarathonClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: LeaderClient,
    servers: Vec<Address>,
    /// The server that responded last. Standbys proxy requests, but time out after ten seconds.
    leader: Mutex<Option<Address>>,
}

impl MarathonClient {
    /// Creates a client without connecting. Reads certificate files: blocks on the file system.
    pub fn new(options: MarathonOptions) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Inner {
            http: LeaderClient::new(options.access)?,
            servers: options.servers,
            leader: Mutex::new(None),
        })))
    }

    /// The servers in the order in which to try them.
    fn candidates(&self) -> Vec<Address> {
        let leader = self.leader_address();
        let others = self
            .0
            .servers
            .iter()
            .filter(|&server| leader.as_ref() != Some(server));
        leader.iter().chain(others).cloned().collect()
    }

    fn leader_address(&self) -> Option<Address> {
        self.0
            .leader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_leader(&self, leader: Option<Address>) {
        *self.0.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    /// Sends a request to one server after another, the leader first, until one responds.
    async fn send<T: Send + 'static>(
        &self,
        spec: &RequestSpec,
        read: impl Fn(&[u8]) -> Result<T, serde_json::Error> + Clone + Send + 'static,
    ) -> Result<T, CallError> {
        let servers = Failover::new(self.candidates());
        let (candidates, read) = (servers.servers(), &read);
        let attempt = |index: usize, _| async move {
            let server = &candidates[index];
            let (server, response) = match self.0.http.send(&self.0.servers, server, spec).await {
                Ok(response) => response,
                // Authoritative: only the leader returns this.
                Err(error) if is_not_found(&error) => return Err(AttemptError::Final(error)),
                Err(error) => return Err(AttemptError::Retry(error)),
            };
            // A list may be long, and decoding must not delay the event stream.
            let (body, read) = (response.body, read.clone());
            tokio::task::spawn_blocking(move || {
                read(&body).map_err(|error| CallErrorKind::invalid_response(&error, &body))
            })
            .await
            .unwrap_or_else(|error| Err(CallErrorKind::invalid_response(&error, b"")))
            .map_err(|kind| AttemptError::Retry(spec.failed(&server, kind)))
        };
        match servers.try_each(attempt).await {
            Ok(result) => Ok(result),
            Err(Some(error)) if is_not_found(&error) => Err(error),
            Err(error) => {
                self.set_leader(None);
                Err(error.unwrap_or_else(|| no_server(spec)))
            }
        }
    }

    /// All apps and pods, with [`Listing::followed`] unset.
    pub async fn list(&self) -> Result<Listing, CallError> {
        let apps = RequestSpec::get("list the apps", "/v2/apps?embed=apps.tasks");
        let pods = RequestSpec::get("list the pods", "/v2/pods/::status");
        let mut listing = self
            .send(&apps, |body| {
                let mut reader = Reader::default();
                reader.apps(body).map(|()| reader.listing)
            })
            .await?;
        let pods = self
            .send(&pods, |body| {
                let mut reader = Reader::default();
                reader.pods(body).map(|()| reader.listing)
            })
            .await?;
        listing.pods = pods.pods;
        listing.skipped.extend(pods.skipped);
        Ok(listing)
    }

    /// An app with its tasks; `None` if it does not exist. An element that cannot be read is an
    /// error here.
    pub async fn app(&self, id: &RunSpecId) -> Result<Option<App>, CallError> {
        let spec = RequestSpec::get(
            format!("read the app {id}"),
            format!("/v2/apps{id}?embed=app.tasks"),
        );
        self.read_run_spec(&spec, Reader::app).await
    }

    /// A pod with its instances; `None` if it does not exist. An element that cannot be read is
    /// an error here.
    pub async fn pod(&self, id: &RunSpecId) -> Result<Option<Pod>, CallError> {
        let spec = RequestSpec::get(
            format!("read the pod {id}"),
            format!("/v2/pods{id}::status"),
        );
        self.read_run_spec(&spec, Reader::pod).await
    }

    async fn read_run_spec<T: Send + 'static>(
        &self,
        spec: &RequestSpec,
        read: impl Fn(&mut Reader, &[u8]) -> Result<Option<T>, serde_json::Error>
        + Clone
        + Send
        + 'static,
    ) -> Result<Option<T>, CallError> {
        let response = self.send(spec, move |body| {
            let mut reader = Reader::default();
            let run_spec = read(&mut reader, body)?;
            match reader.listing.skipped.into_iter().next() {
                None => Ok(run_spec),
                Some(skipped) => Err(serde::de::Error::custom(skipped.problem)),
            }
        });
        match response.await {
            Err(error) if is_not_found(&error) => Ok(None),
            response => response,
        }
    }

    /// The tasks of all apps, and the number of tasks that could not be read.
    pub async fn tasks(&self) -> Result<(Vec<Task>, usize), CallError> {
        let spec = RequestSpec::get("list the tasks", "/v2/tasks");
        self.send(&spec, |body| {
            let mut reader = Reader::default();
            let tasks = reader.tasks(body)?;
            Ok((tasks, reader.listing.skipped.len()))
        })
        .await
    }

    /// The leader's own `host:port`.
    pub async fn leader(&self) -> Result<String, CallError> {
        let spec = RequestSpec::get("get the leader", "/v2/leader");
        self.send(&spec, json::leader).await
    }

    /// Whether this Marathon silently drops events for slow consumers, as 1.7 does. Assumed for an
    /// unknown version.
    pub(super) async fn drops_events(&self) -> bool {
        let spec = RequestSpec::get("get the version", "/v2/info");
        let version = self.send(&spec, |body| Ok(json::minor_version(body))).await;
        !matches!(version, Ok(Some(minor)) if minor > 7)
    }

    /// The servers and the request for the event stream.
    pub(super) fn events(&self) -> (Vec<Address>, RequestSpec) {
        let types = EVENT_TYPES.map(|kind| format!("event_type={kind}"));
        let path = format!("/v2/events?plan-format=light&{}", types.join("&"));
        let spec = RequestSpec {
            // The only value that Marathon accepts.
            accept: "text/event-stream",
            ..RequestSpec::get("follow the events", path)
        };
        (self.candidates(), spec)
    }

    /// Opens the event stream at a server, and remembers the leader.
    pub(super) async fn open(
        &self,
        server: &Address,
        spec: &RequestSpec,
    ) -> Result<(Address, Streaming), CallError> {
        let (leader, response) = self.0.http.open(&self.0.servers, server, spec).await?;
        let content_type = response
            .headers
            .get(hyper::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !content_type.starts_with("text/event-stream") {
            let problem = format!("the content type is {content_type:?}, not an event stream");
            return Err(spec.failed(&leader, CallErrorKind::invalid_response(&problem, b"")));
        }
        self.set_leader(Some(leader.clone()));
        Ok((leader, response))
    }
}

pub(super) fn no_server(spec: &RequestSpec) -> CallError {
    let problem = "no server is configured".to_owned();
    CallError::without_server(&spec.operation, CallErrorKind::Discovery(problem))
}

fn is_not_found(error: &CallError) -> bool {
    matches!(error.kind, CallErrorKind::NotFound { .. })
}
