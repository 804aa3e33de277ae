//! One session: from the candidature to its end.

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
use super::{FAREWELL, ZooKeeper};
use crate::fence::Keeper;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::http::Address;

/// Why a step was not done.
enum Setback {
    /// The session goes on; try again.
    Passing,
    /// The session is no use.
    Final(String),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        match error {
            Error::ConnectionLoss | Error::Timeout | Error::Throttled => Self::Passing,
            Error::NoAuth => Self::Final(
                "it refuses us the election's nodes; see user and password_file in [zookeeper]"
                    .to_owned(),
            ),
            other => Self::Final(other.to_string()),
        }
    }
}

type Step<T> = Result<T, Setback>;

/// The term in which we lead.
struct Reign {
    term: u64,
    /// The version of the node `term` that we wrote last.
    version: i32,
    /// Until when the last renewal lets us write; none before the first.
    until: Option<Instant>,
}

pub(super) struct Campaign<'a> {
    options: &'a ZooKeeper,
    client: Client,
    states: StateWatcher,
    keeper: &'a Keeper,
    me: Candidate,
    /// How long a lease lasts.
    lease: Duration,
    /// How often it is renewed, or the leader looked at.
    beat: Duration,
    /// Our candidate's node, without its path.
    node: Option<String>,
    reign: Option<Reign>,
    /// The version of the node `term` that we saw last, and when first.
    seen: Option<(i32, Instant)>,
    /// Fires when a candidate comes or goes.
    children: Option<OneshotWatcher>,
    /// The candidates of which the keeper was told.
    known: Vec<String>,
}

impl<'a> Campaign<'a> {
    pub(super) fn new(
        options: &'a ZooKeeper,
        client: Client,
        id: Uuid,
        url: &Address,
        keeper: &'a Keeper,
    ) -> Self {
        let timeout = client.session_timeout();
        log::info!(servers:% = options.servers, session_timeout:? = timeout; "connected to ZooKeeper");
        Self {
            options,
            states: client.state_watcher(),
            client,
            keeper,
            me: Candidate {
                id,
                url: url.to_string(),
            },
            lease: timeout / 2,
            beat: timeout / 6,
            node: None,
            reign: None,
            seen: None,
            children: None,
            known: vec![],
        }
    }

    fn term_path(&self) -> String {
        format!("{}/term", self.options.path)
    }

    fn candidates_path(&self) -> String {
        format!("{}/candidates", self.options.path)
    }

    /// Stands until the session is no use any more; says why.
    pub(super) async fn run(&mut self) -> String {
        loop {
            let setback = match self.beat().await {
                Ok(()) => continue,
                Err(setback) => setback,
            };
            if let Setback::Final(problem) = setback {
                return problem;
            }
            // A lost connection comes back, or the session ends.
            if let Err(Setback::Final(problem)) = self.wait(sleep(self.beat / 4)).await {
                return problem;
            }
        }
    }

    /// Takes leave, so that nobody has to wait for us.
    pub(super) async fn leave(mut self) {
        self.keeper.close("it is stopping");
        let farewell = async {
            let path = self.term_path();
            if let Some(reign) = self.reign.take() {
                // Its version may have risen by a renewal whose answer we did not wait for.
                let (data, stat) = self.client.get_data(&path).await?;
                let there: Option<Record> = serde_json::from_slice(&data).ok();
                let there =
                    there.filter(|there| there.id == self.me.id && there.term == reign.term);
                if let Some(there) = there {
                    let released = bytes(&Record {
                        released: true,
                        ..there
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
        match timeout(FAREWELL, farewell).await {
            Ok(Ok(())) => log::info!("took leave of ZooKeeper"),
            Ok(Err(error)) => log::warn!(error:%; "cannot take leave of ZooKeeper"),
            Err(_) => log::warn!("cannot take leave of ZooKeeper in time"),
        }
    }

    fn record(&self, term: u64) -> Record {
        Record {
            term,
            id: self.me.id,
            url: self.me.url.clone(),
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
            released: false,
        }
    }

    /// Everything that is to be done now, and then a pause.
    async fn beat(&mut self) -> Step<()> {
        if self.node.is_none() {
            self.enter().await?;
        }
        let candidates = self.candidates().await?;
        if self.reign.is_some() {
            self.renew().await?;
        } else {
            self.look(&candidates).await?;
        }
        self.know(&candidates).await?;
        let Some(children) = self.children.take() else {
            return self.wait(sleep(self.beat)).await;
        };
        // When a candidate comes or goes, sooner.
        let pause = timeout(self.beat, children.changed());
        self.wait(pause).await.map(drop)
    }

    /// Becomes a candidate.
    async fn enter(&mut self) -> Step<()> {
        let directory = CreateMode::Persistent.with_acls(self.options.acls());
        let path = self.candidates_path();
        let client = self.client.clone();
        self.ask(client.mkdir(&path, &directory)).await?;
        self.create(
            &self.term_path(),
            &bytes(&Record::none(self.record(0).lease_ms)),
            &directory,
        )
        .await?;
        let ephemeral = CreateMode::EphemeralSequential.with_acls(self.options.acls());
        let data = bytes(&self.me);
        let prefix = format!("{path}/{PREFIX}");
        let (_, number) = self.ask(client.create(&prefix, &data, &ephemeral)).await?;
        self.node = Some(format!("{PREFIX}{number}"));
        Ok(())
    }

    /// Makes a node unless it is there.
    async fn create(&mut self, path: &str, data: &[u8], options: &CreateOptions<'_>) -> Step<()> {
        let client = self.client.clone();
        let create = async {
            match client.create(path, data, options).await {
                Err(error) if error != Error::NodeExists => Err(error),
                _ => Ok(()),
            }
        };
        self.ask(create).await
    }

    /// The candidates' nodes, among which ours has to be.
    async fn candidates(&mut self) -> Step<Vec<String>> {
        let path = self.candidates_path();
        let client = self.client.clone();
        let (candidates, watcher) = self.ask(client.list_and_watch_children(&path)).await?;
        self.children = Some(watcher);
        if self
            .node
            .as_ref()
            .is_some_and(|node| !candidates.contains(node))
        {
            return Err(Setback::Final("our candidature was removed".to_owned()));
        }
        Ok(candidates)
    }

    /// Tells who stands for election, where that has changed. For people.
    async fn know(&mut self, candidates: &[String]) -> Step<()> {
        let mut sorted = candidates.to_vec();
        sorted.sort_unstable();
        if sorted == self.known {
            return Ok(());
        }
        let mut managers = vec![];
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
            let data = self.ask(read).await?;
            let candidate = data.and_then(|data| serde_json::from_slice::<Candidate>(&data).ok());
            managers.extend(candidate.map(|candidate| candidate.url));
        }
        self.known = sorted;
        self.keeper.know(managers);
        Ok(())
    }

    /// Who leads; or begins to lead.
    async fn look(&mut self, candidates: &[String]) -> Step<()> {
        let (record, version) = self.read_term().await?;
        let Some(next) = first(candidates) else {
            return Ok(());
        };
        if self.node.as_deref() == Some(next) {
            return self.take(&record, version).await;
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
        let Some(data) = self.ask(read).await? else {
            return Ok(());
        };
        let candidate: Candidate = parse(&path, &data)?;
        let leader = agent_api::manager_address(&candidate.url);
        match leader {
            Ok(leader) if candidate.id == record.id && !record.released => {
                self.keeper.follow(leader);
            }
            Ok(leader) => self.keeper.close(format!("{leader} is about to lead")),
            Err(error) => self
                .keeper
                .close(format!("{next} is no manager of ours: {error}")),
        }
        Ok(())
    }

    async fn read_term(&mut self) -> Step<(Record, i32)> {
        let path = self.term_path();
        let client = self.client.clone();
        let (data, stat) = self.ask(client.get_data(&path)).await?;
        // Now, and not when it was asked for: it was renewed before.
        if self.seen.is_none_or(|(version, _)| version != stat.version) {
            self.seen = Some((stat.version, Instant::now()));
        }
        Ok((parse(&path, &data)?, stat.version))
    }

    /// Begins a term, and waits until the one before is certainly over.
    async fn take(&mut self, before: &Record, version: i32) -> Step<()> {
        let first_seen = self.seen.map_or_else(Instant::now, |(_, at)| at);
        self.keeper.close("it is about to lead");
        let own = self.record(before.term + 1);
        let record = Record {
            // Whoever takes over from us before we have waited has to wait for those before us.
            lease_ms: own.lease_ms.max(before.lease_ms),
            ..own
        };
        let Some(version) = self.write(&record, version).await? else {
            // Somebody was faster, or renewed.
            return Err(Setback::Passing);
        };
        if !before.released {
            let over = first_seen + before.lease();
            let left = over.saturating_duration_since(Instant::now());
            log::info!(term = record.term, left:?; "elected, and waiting for the end of the lease before");
            self.wait(sleep_until(over)).await?;
        }
        self.reign = Some(Reign {
            term: record.term,
            version,
            until: None,
        });
        self.renew().await
    }

    /// Renews the lease, from before it is asked for.
    async fn renew(&mut self) -> Step<()> {
        let Some(Reign { term, version, .. }) = self.reign else {
            return Ok(());
        };
        let record = self.record(term);
        let mut asked = Instant::now();
        let mut renewed = self.write(&record, version).await?;
        if renewed.is_none() {
            // The answer to an earlier renewal may have been lost.
            let (there, version) = self.read_term().await?;
            if (there.id, there.term) != (self.me.id, term) {
                return Err(Setback::Final(format!("{} has taken over", there.url)));
            }
            asked = Instant::now();
            renewed = self.write(&record, version).await?;
        }
        let Some(version) = renewed else {
            return Err(Setback::Passing);
        };
        let until = asked + self.lease;
        self.reign = Some(Reign {
            term,
            version,
            until: Some(until),
        });
        self.keeper.lead(term, Some(until));
        Ok(())
    }

    /// The version that was written; none if the node has another one than `version`.
    async fn write(&mut self, record: &Record, version: i32) -> Step<Option<i32>> {
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
        self.ask(write).await
    }

    /// Waits for an answer of ZooKeeper.
    async fn ask<T>(&mut self, question: impl Future<Output = Result<T, Error>>) -> Step<T> {
        let patience = self.lease;
        let answer = self.wait(timeout(patience, question)).await?;
        answer.map_err(|_| Setback::Passing)?.map_err(Setback::from)
    }

    /// Waits for something, and closes the fence as soon as we may not write any more.
    async fn wait<T>(&mut self, something: impl Future<Output = T>) -> Step<T> {
        let mut something = pin!(something);
        loop {
            let state = self.states.peek_state();
            if state.is_terminated() {
                return Err(Setback::Final(format!("the session is over ({state})")));
            }
            let until = self.reign.as_ref().and_then(|reign| reign.until);
            let lapsed = until.is_some_and(|until| until <= Instant::now());
            if state != SessionState::SyncConnected {
                self.keeper.close("the connection to ZooKeeper is lost");
            } else if lapsed {
                self.keeper.close("ZooKeeper does not answer");
            }
            let until = until.filter(|_| !lapsed);
            let lapse = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.states.changed() => {}
                () = lapse => {}
                done = &mut something => return Ok(done),
            }
        }
    }
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    // Numbers, texts and a uuid can always be written.
    serde_json::to_vec(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(path: &str, data: &[u8]) -> Step<T> {
    serde_json::from_slice(data).map_err(|error| {
        Setback::Final(format!(
            "the node {path} was not written by a manager ({error}); remove it, or take another path"
        ))
    })
}
