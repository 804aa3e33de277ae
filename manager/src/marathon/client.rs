//! Questions to Marathon: which server, and what its answer means.

use std::sync::{Arc, Mutex, PoisonError};

use super::event::TYPES;
use super::id::RunSpecId;
use super::json::{self, Reader};
use super::model::{App, Listing, Pod, Task};
use contrail_mesos_api::http::{
    Address, AttemptError, CallError, CallErrorKind, Failover, LeaderClient, LeaderOptions,
    RequestSpec, Streaming, TlsError,
};

/// Where Marathon listens.
pub const PORT: u16 = 8080;

/// How Marathon is reached.
#[derive(Clone, Debug)]
pub struct MarathonOptions {
    /// The servers of one Marathon, or what stands before them.
    pub servers: Vec<Address>,
    /// TLS, credentials, limits.
    pub access: LeaderOptions,
}

/// The client. Clones share connections and what is known of the leader.
#[derive(Clone, Debug)]
pub struct MarathonClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: LeaderClient,
    servers: Vec<Address>,
    /// Who answered last. Standbys pass calls on, but give the leader ten seconds only.
    leader: Mutex<Option<Address>>,
}

impl MarathonClient {
    /// A client; nothing is asked yet. Reads certificate files: blocks on the file system.
    pub fn new(options: MarathonOptions) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Inner {
            http: LeaderClient::new(options.access)?,
            servers: options.servers,
            leader: Mutex::new(None),
        })))
    }

    /// The servers in the order in which to ask them.
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
        let leader = self.0.leader.lock();
        leader.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, leader: Option<Address>) {
        *self.0.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    /// Asks one server after another, the leader first, until one answers.
    async fn ask<T: Send + 'static>(
        &self,
        spec: &RequestSpec,
        read: impl Fn(&[u8]) -> Result<T, serde_json::Error> + Clone + Send + 'static,
    ) -> Result<T, CallError> {
        let servers = Failover::new(self.candidates());
        let (candidates, read) = (servers.servers(), &read);
        let attempt = |index: usize, _| async move {
            let server = &candidates[index];
            let (server, answer) = match self.0.http.send(&self.0.servers, server, spec).await {
                Ok(answer) => answer,
                // The leader's own word.
                Err(error) if is_not_found(&error) => return Err(AttemptError::Final(error)),
                Err(error) => return Err(AttemptError::Retry(error)),
            };
            // A list may be long, and the event stream must be read meanwhile.
            let (body, read) = (answer.body, read.clone());
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
                self.remember(None);
                Err(error.unwrap_or_else(|| no_server(spec)))
            }
        }
    }

    /// Everything, with [`Listing::followed`] unset.
    pub async fn list(&self) -> Result<Listing, CallError> {
        let apps = RequestSpec::get("list the apps", "/v2/apps?embed=apps.tasks");
        let pods = RequestSpec::get("list the pods", "/v2/pods/::status");
        let reader = self.ask(&apps, |body| {
            let mut reader = Reader::default();
            reader.apps(body).map(|()| reader.listing)
        });
        let mut listing = reader.await?;
        let pods = self.ask(&pods, |body| {
            let mut reader = Reader::default();
            reader.pods(body).map(|()| reader.listing)
        });
        let pods = pods.await?;
        listing.pods = pods.pods;
        listing.skipped.extend(pods.skipped);
        Ok(listing)
    }

    /// An app with its tasks; none if there is none of that id. What of it could not be read is
    /// an error here.
    pub async fn app(&self, id: &RunSpecId) -> Result<Option<App>, CallError> {
        let spec = RequestSpec::get(
            format!("read the app {id}"),
            format!("/v2/apps{id}?embed=app.tasks"),
        );
        self.one(&spec, Reader::app).await
    }

    /// A pod with its instances; none if there is none of that id. What of it could not be read
    /// is an error here.
    pub async fn pod(&self, id: &RunSpecId) -> Result<Option<Pod>, CallError> {
        let spec = RequestSpec::get(
            format!("read the pod {id}"),
            format!("/v2/pods{id}::status"),
        );
        self.one(&spec, Reader::pod).await
    }

    async fn one<T: Send + 'static>(
        &self,
        spec: &RequestSpec,
        read: impl Fn(&mut Reader, &[u8]) -> Result<Option<T>, serde_json::Error>
        + Clone
        + Send
        + 'static,
    ) -> Result<Option<T>, CallError> {
        let answer = self.ask(spec, move |body| {
            let mut reader = Reader::default();
            let one = read(&mut reader, body)?;
            match reader.listing.skipped.into_iter().next() {
                None => Ok(one),
                Some(skipped) => Err(serde::de::Error::custom(skipped.problem)),
            }
        });
        match answer.await {
            Err(error) if is_not_found(&error) => Ok(None),
            answer => answer,
        }
    }

    /// The tasks of all apps, and how many could not be read.
    pub async fn tasks(&self) -> Result<(Vec<Task>, usize), CallError> {
        let spec = RequestSpec::get("list the tasks", "/v2/tasks");
        self.ask(&spec, |body| {
            let mut reader = Reader::default();
            let tasks = reader.tasks(body)?;
            Ok((tasks, reader.listing.skipped.len()))
        })
        .await
    }

    /// The leader as it calls itself, `host:port`.
    pub async fn leader(&self) -> Result<String, CallError> {
        let spec = RequestSpec::get("ask for the leader", "/v2/leader");
        self.ask(&spec, json::leader).await
    }

    /// Whether this Marathon drops events for slow consumers without a word, as 1.7 does. One that
    /// does not say its version might.
    pub(super) async fn drops_events(&self) -> bool {
        let spec = RequestSpec::get("ask for the version", "/v2/info");
        let version = self.ask(&spec, |body| Ok(json::minor_version(body))).await;
        !matches!(version, Ok(Some(minor)) if minor > 7)
    }

    /// Where to ask for the event stream, and how.
    pub(super) fn events(&self) -> (Vec<Address>, RequestSpec) {
        let types = TYPES.map(|kind| format!("event_type={kind}"));
        let path = format!("/v2/events?plan-format=light&{}", types.join("&"));
        let spec = RequestSpec {
            // The one value that Marathon takes.
            accept: "text/event-stream",
            ..RequestSpec::get("follow the events", path)
        };
        (self.candidates(), spec)
    }

    /// Opens the event stream at one of these servers, and remembers the leader.
    pub(super) async fn open(
        &self,
        server: &Address,
        spec: &RequestSpec,
    ) -> Result<(Address, Streaming), CallError> {
        let (leader, answer) = self.0.http.open(&self.0.servers, server, spec).await?;
        let kind = answer.headers.get(hyper::header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            let problem = format!("it is {kind:?} and no event stream");
            return Err(spec.failed(&leader, CallErrorKind::invalid_response(&problem, b"")));
        }
        self.remember(Some(leader.clone()));
        Ok((leader, answer))
    }
}

pub(super) fn no_server(spec: &RequestSpec) -> CallError {
    let problem = "no server is configured".to_owned();
    CallError::without_server(&spec.operation, CallErrorKind::Discovery(problem))
}

fn is_not_found(error: &CallError) -> bool {
    matches!(error.kind, CallErrorKind::NotFound { .. })
}
