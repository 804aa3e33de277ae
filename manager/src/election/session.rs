//! One session with ZooKeeper: from becoming a candidate to the end of the session.

use std::pin::pin;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;
use zookeeper_client::{
    Client, CreateMode, CreateOptions, Error, OneshotWatcher, SessionState, StateWatcher,
};

use super::record::{Candidate, PREFIX, Record, first};
use super::{SHUTDOWN_TIMEOUT, ZooKeeper};
use crate::fence::FenceControl;
use crate::logging::millis;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::http::Address;

/// Why a step failed.
enum ElectionError {
    /// The session continues: retry.
    Transient,
    /// The session must be replaced.
    Fatal(String),
}

impl From<Error> for ElectionError {
    fn from(error: Error) -> Self {
        match error {
            Error::ConnectionLoss | Error::Timeout | Error::Throttled => Self::Transient,
            Error::NoAuth => Self::Fatal(
                "it denies access to the election's nodes; check user and password_file in [zookeeper]"
                    .to_owned(),
            ),
            other => Self::Fatal(other.to_string()),
        }
    }
}

type Result<T> = std::result::Result<T, ElectionError>;

/// The term in which this manager leads.
struct Leadership {
    term: u64,
    /// The version of the node `term` that this manager wrote last.
    version: i32,
    /// When the lease expires; none before the first renewal.
    until: Option<Instant>,
}

pub(super) struct Session<'a> {
    options: &'a ZooKeeper,
    client: Client,
    states: StateWatcher,
    control: &'a FenceControl,
    own: Candidate,
    /// The duration of a lease.
    lease: Duration,
    /// How often the lease is renewed, or the leader is read.
    interval: Duration,
    /// The name of this candidate's node.
    node: Option<String>,
    leadership: Option<Leadership>,
    /// The version of the node `term` that was read last, and when it was first read.
    last_read: Option<(i32, Instant)>,
    /// Fires when a candidate appears or disappears.
    children: Option<OneshotWatcher>,
    /// The candidates' nodes that the fence was given.
    published: Vec<String>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        options: &'a ZooKeeper,
        client: Client,
        id: Uuid,
        url: &Address,
        control: &'a FenceControl,
    ) -> Self {
        let timeout = client.session_timeout();
        log::info!(servers:% = options.servers, session_timeout_ms = millis(timeout); "connected to ZooKeeper");
        Self {
            options,
            states: client.state_watcher(),
            client,
            control,
            own: Candidate {
                id,
                url: url.to_string(),
            },
            lease: timeout / 2,
            interval: timeout / 6,
            node: None,
            leadership: None,
            last_read: None,
            children: None,
            published: vec![],
        }
    }

    fn term_path(&self) -> String {
        format!("{}/term", self.options.path)
    }

    fn candidates_path(&self) -> String {
        format!("{}/candidates", self.options.path)
    }

    /// Runs until the session must be replaced; returns the reason.
    pub(super) async fn run(&mut self) -> String {
        loop {
            match self.tick().await {
                Ok(()) => continue,
                Err(ElectionError::Fatal(problem)) => return problem,
                Err(ElectionError::Transient) => {}
            }
            // A lost connection is restored, or the session expires.
            if let Err(ElectionError::Fatal(problem)) = self.wait(sleep(self.interval / 4)).await {
                return problem;
            }
        }
    }

    /// Releases the lease and the candidacy, so that no other manager has to wait.
    pub(super) async fn resign(mut self) {
        self.control.close("it is stopping");
        let release = async {
            let path = self.term_path();
            if let Some(leadership) = self.leadership.take() {
                // A renewal whose response was not awaited may have changed the version.
                let (data, stat) = self.client.get_data(&path).await?;
                let current = serde_json::from_slice::<Record>(&data)
                    .ok()
                    .filter(|record| record.id == self.own.id && record.term == leadership.term);
                if let Some(current) = current {
                    let released = bytes(&Record {
                        released: true,
                        ..current
                    });
                    let version = Some(stat.version);
                    self.client.set_data(&path, &released, version).await?;
                }
            }
            if let Some(node) = self.node.take() {
                let path = format!("{}/{node}", self.candidates_path());
                self.client.delete(&path, None).await?;
            }
            Ok::<_, Error>(())
        };
        match timeout(SHUTDOWN_TIMEOUT, release).await {
            Ok(Ok(())) => log::info!("resigned from the election"),
            Ok(Err(error)) => log::warn!(error:%; "cannot resign from the election"),
            Err(_) => log::warn!("cannot resign from the election in time"),
        }
    }

    fn record(&self, term: u64) -> Record {
        Record {
            term,
            id: self.own.id,
            url: self.own.url.clone(),
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
            released: false,
        }
    }

    /// One round: renews the lease or reads the leader, then waits.
    async fn tick(&mut self) -> Result<()> {
        if self.node.is_none() {
            self.enter().await?;
        }
        let candidates = self.candidates().await?;
        if self.leadership.is_some() {
            self.renew().await?;
        } else {
            self.follow_or_lead(&candidates).await?;
        }
        self.publish(&candidates).await?;
        let Some(children) = self.children.take() else {
            return self.wait(sleep(self.interval)).await;
        };
        // Ends early when a candidate appears or disappears.
        let pause = timeout(self.interval, children.changed());
        self.wait(pause).await.map(drop)
    }

    /// Becomes a candidate.
    async fn enter(&mut self) -> Result<()> {
        let directory = CreateMode::Persistent.with_acls(self.options.acls());
        let path = self.candidates_path();
        let (options, client) = (self.options, self.client.clone());
        self.request(options.make_directory(&client, &path)).await?;
        self.create(
            &self.term_path(),
            &bytes(&Record::none(self.record(0).lease_ms)),
            &directory,
        )
        .await?;
        let ephemeral = CreateMode::EphemeralSequential.with_acls(self.options.acls());
        let data = bytes(&self.own);
        let prefix = format!("{path}/{PREFIX}");
        let (_, number) = self
            .request(client.create(&prefix, &data, &ephemeral))
            .await?;
        self.node = Some(format!("{PREFIX}{number}"));
        Ok(())
    }

    /// Creates a node if it does not exist.
    async fn create(&mut self, path: &str, data: &[u8], options: &CreateOptions<'_>) -> Result<()> {
        let client = self.client.clone();
        let create = async {
            match client.create(path, data, options).await {
                Err(error) if error != Error::NodeExists => Err(error),
                _ => Ok(()),
            }
        };
        self.request(create).await
    }

    /// The candidates' nodes. Fails if this candidate's node is gone.
    async fn candidates(&mut self) -> Result<Vec<String>> {
        let path = self.candidates_path();
        let client = self.client.clone();
        let (candidates, watcher) = self.request(client.list_and_watch_children(&path)).await?;
        self.children = Some(watcher);
        if self
            .node
            .as_ref()
            .is_some_and(|node| !candidates.contains(node))
        {
            return Err(ElectionError::Fatal(
                "this candidate's node was deleted".to_owned(),
            ));
        }
        Ok(candidates)
    }

    /// Gives the fence the candidates' URLs, if they have changed.
    async fn publish(&mut self, candidates: &[String]) -> Result<()> {
        let mut sorted = candidates.to_vec();
        sorted.sort_unstable();
        if sorted == self.published {
            return Ok(());
        }
        let mut urls = vec![];
        for node in &sorted {
            let path = format!("{}/{node}", self.candidates_path());
            let client = self.client.clone();
            let read = async {
                match client.get_data(&path).await {
                    Ok((data, _)) => Ok(Some(data)),
                    Err(Error::NoNode) => Ok(None),
                    Err(error) => Err(error),
                }
            };
            let data = self.request(read).await?;
            let candidate = data.and_then(|data| serde_json::from_slice::<Candidate>(&data).ok());
            urls.extend(candidate.map(|candidate| candidate.url));
        }
        self.published = sorted;
        self.control.set_candidates(urls);
        Ok(())
    }

    /// Follows the leader, or begins to lead if this candidate is first.
    async fn follow_or_lead(&mut self, candidates: &[String]) -> Result<()> {
        let (record, version) = self.read_term().await?;
        let Some(next) = first(candidates) else {
            return Ok(());
        };
        if self.node.as_deref() == Some(next) {
            return self.take_over(&record, version).await;
        }
        let path = format!("{}/{next}", self.candidates_path());
        let client = self.client.clone();
        let read = async {
            match client.get_data(&path).await {
                Ok((data, _)) => Ok(Some(data)),
                Err(Error::NoNode) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let Some(data) = self.request(read).await? else {
            return Ok(());
        };
        let candidate: Candidate = parse(&path, &data)?;
        let leader = agent_api::manager_address(&candidate.url);
        match leader {
            Ok(leader) if candidate.id == record.id && !record.released => {
                self.control.follow(leader);
            }
            Ok(leader) => self.control.close(format!("{leader} is about to lead")),
            Err(error) => self
                .control
                .close(format!("the candidate {next} has an invalid URL: {error}")),
        }
        Ok(())
    }

    async fn read_term(&mut self) -> Result<(Record, i32)> {
        let path = self.term_path();
        let client = self.client.clone();
        let (data, stat) = self.request(client.get_data(&path)).await?;
        // Not the time of the request: the renewal happened before the response.
        if self
            .last_read
            .is_none_or(|(version, _)| version != stat.version)
        {
            self.last_read = Some((stat.version, Instant::now()));
        }
        Ok((parse(&path, &data)?, stat.version))
    }

    /// Begins a term, and waits until the previous lease has certainly expired.
    async fn take_over(&mut self, before: &Record, version: i32) -> Result<()> {
        let first_read = self.last_read.map_or_else(Instant::now, |(_, at)| at);
        self.control.close("it is about to lead");
        let own = self.record(before.term + 1);
        let record = Record {
            // A successor that takes over during this wait must wait for the previous lease too.
            lease_ms: own.lease_ms.max(before.lease_ms),
            ..own
        };
        let Some(version) = self.write(&record, version).await? else {
            // Another candidate was faster, or the leader renewed its lease.
            return Err(ElectionError::Transient);
        };
        if !before.released {
            let expiry = first_read + before.lease();
            let wait = expiry.saturating_duration_since(Instant::now());
            log::info!(term = record.term, wait_ms = millis(wait); "elected; waiting until the previous lease expires");
            self.wait(sleep_until(expiry)).await?;
        }
        self.leadership = Some(Leadership {
            term: record.term,
            version,
            until: None,
        });
        self.renew().await
    }

    /// Renews the lease. It begins before the request is sent.
    async fn renew(&mut self) -> Result<()> {
        let Some(Leadership { term, version, .. }) = self.leadership else {
            return Ok(());
        };
        let record = self.record(term);
        let mut requested_at = Instant::now();
        let mut renewed = self.write(&record, version).await?;
        if renewed.is_none() {
            // The response to an earlier renewal may have been lost.
            let (current, version) = self.read_term().await?;
            if (current.id, current.term) != (self.own.id, term) {
                return Err(ElectionError::Fatal(format!(
                    "{} has taken over",
                    current.url
                )));
            }
            requested_at = Instant::now();
            renewed = self.write(&record, version).await?;
        }
        let Some(version) = renewed else {
            return Err(ElectionError::Transient);
        };
        let until = requested_at + self.lease;
        self.leadership = Some(Leadership {
            term,
            version,
            until: Some(until),
        });
        self.control.lead(term, Some(until));
        Ok(())
    }

    /// Writes the node `term`. Returns its new version, or none if its version was not `version`.
    async fn write(&mut self, record: &Record, version: i32) -> Result<Option<i32>> {
        let path = self.term_path();
        let data = bytes(record);
        let client = self.client.clone();
        let write = async {
            match client.set_data(&path, &data, Some(version)).await {
                Ok(stat) => Ok(Some(stat.version)),
                Err(Error::BadVersion) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.request(write).await
    }

    /// Waits for a response of ZooKeeper, at most for the duration of a lease.
    async fn request<T>(
        &mut self,
        request: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        let limit = self.lease;
        let response = self.wait(timeout(limit, request)).await?;
        response
            .map_err(|_| ElectionError::Transient)?
            .map_err(ElectionError::from)
    }

    /// Waits for a future, and closes the fence as soon as this manager may no longer write.
    async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Result<T> {
        let mut future = pin!(future);
        loop {
            let state = self.states.peek_state();
            if state.is_terminated() {
                return Err(ElectionError::Fatal(format!(
                    "the session has ended ({state})"
                )));
            }
            let until = self
                .leadership
                .as_ref()
                .and_then(|leadership| leadership.until);
            let expired = until.is_some_and(|until| until <= Instant::now());
            if state != SessionState::SyncConnected {
                self.control.close("the connection to ZooKeeper is lost");
            } else if expired {
                self.control.close("ZooKeeper does not respond");
            }
            let until = until.filter(|_| !expired);
            let expiry = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.states.changed() => {}
                () = expiry => {}
                output = &mut future => return Ok(output),
            }
        }
    }
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    // Serialization of numbers, strings and a uuid cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(path: &str, data: &[u8]) -> Result<T> {
    serde_json::from_slice(data).map_err(|error| {
        ElectionError::Fatal(format!(
            "the node {path} was not written by a manager ({error}); delete it, or configure another path"
        ))
    })
}
