//! Reports this host's containers on overlays to the managers, which publish them to the other hosts.
//!
//! The list is sent when it changes, as soon as the managers know this node, and when a manager says that
//! it lacks it. A report of the node has its digest, so that a manager can tell.

use std::sync::Arc;
use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use contrail_mesos_api::cluster::{ClusterClient, EndpointsReport};
use contrail_mesos_api::text::with_causes;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long one report is retried.
const REPORT_TIMEOUT: Duration = Duration::from_secs(15);
/// The delay after a change, in which others may come. With jitter 10 to 20 ms.
const CHANGE_DELAY: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(10));
/// The delays after a report that failed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// The list of containers that is reported; none before it is known.
pub type Reports = watch::Receiver<Option<Arc<EndpointsReport>>>;

/// What the managers have said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Requests {
    /// Whether they know this node.
    is_registered: bool,
    /// How often they have asked for the list.
    count: u64,
}

/// What the reports of the node have to do with its containers.
#[derive(Clone, Debug)]
pub struct EndpointRequests {
    reports: Reports,
    requests: Arc<watch::Sender<Requests>>,
}

impl EndpointRequests {
    /// The digest of the list, for a report of the node.
    #[must_use]
    pub fn digest(&self) -> Option<String> {
        let report = self.reports.borrow();
        report.as_ref().map(|report| report.digest.clone())
    }

    /// Notes that a manager has accepted a report of the node, and whether it asks for the list.
    pub fn answered(&self, is_requested: bool) {
        self.requests.send_if_modified(|requests| {
            let before = *requests;
            requests.is_registered = true;
            requests.count += u64::from(is_requested);
            *requests != before
        });
    }
}

/// Sends the list.
#[derive(Debug)]
pub struct EndpointReporter {
    client: ClusterClient,
    reports: Reports,
    requests: watch::Receiver<Requests>,
    sender: Arc<watch::Sender<Requests>>,
}

impl EndpointReporter {
    /// A reporter of the latest of `reports`.
    #[must_use]
    pub fn new(client: ClusterClient, reports: Reports) -> Self {
        let (sender, requests) = watch::channel(Requests::default());
        Self {
            client,
            reports,
            requests,
            sender: Arc::new(sender),
        }
    }

    /// What the reports of the node need.
    #[must_use]
    pub fn requests(&self) -> EndpointRequests {
        EndpointRequests {
            reports: self.reports.clone(),
            requests: self.sender.clone(),
        }
    }

    /// Reports until the future is dropped.
    pub async fn run(mut self) {
        let mut retries = RETRY.delays();
        let mut logged = None;
        // The digest that a manager has accepted, and the requests that it has answered.
        let mut accepted: Option<(String, u64)> = None;
        loop {
            let requests = *self.requests.borrow_and_update();
            let report = self.reports.borrow_and_update().clone();
            let due = report.filter(|report| {
                let is_accepted = accepted.as_ref().is_some_and(|(digest, count)| {
                    *digest == report.digest && *count == requests.count
                });
                requests.is_registered && !is_accepted
            });
            let Some(report) = due else {
                self.wait().await;
                tokio::time::sleep(CHANGE_DELAY.delays().next_delay()).await;
                continue;
            };
            let deadline = Instant::now() + REPORT_TIMEOUT;
            match self.client.report_endpoints(&report, deadline).await {
                Ok(()) => {
                    retries = RETRY.delays();
                    logged = None;
                    accepted = Some((report.digest.clone(), requests.count));
                }
                Err(error) => {
                    let problem = with_causes(&error);
                    if logged.as_ref() != Some(&problem) {
                        log::warn!(
                            "other hosts do not learn of changes of this host's containers: {problem}"
                        );
                    }
                    logged = Some(problem);
                    tokio::time::sleep(retries.next_delay()).await;
                }
            }
        }
    }

    /// Waits for another list or request.
    async fn wait(&mut self) {
        let reports = async {
            if self.reports.changed().await.is_err() {
                // There is no subsystem that knows of containers.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = reports => {}
            // The sender is one of this reporter's own fields.
            _ = self.requests.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::agent_api::{ClientOptions, manager_address};
    use contrail_mesos_api::http::scripted::{ReceivedRequest, Reply, ScriptedServer, ok};
    use contrail_mesos_api::http::{Limits, TlsOptions};
    use serde_json::json;

    use super::*;

    fn report(digest: &str) -> Arc<EndpointsReport> {
        Arc::new(EndpointsReport {
            digest: digest.to_owned(),
            endpoints: vec![],
        })
    }

    async fn wait_for(server: &ScriptedServer, count: usize) -> Vec<String> {
        while server.requests().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let digest = |request: &ReceivedRequest| {
            assert_eq!(request.line(), "PUT /v1/nodes/node-1/endpoints");
            request.json()["digest"].as_str().unwrap().to_owned()
        };
        server.requests().iter().map(digest).collect()
    }

    #[tokio::test]
    async fn list_is_sent_once_registered_when_changed_asked_for_and_after_failures() {
        let server = ScriptedServer::start(|_, count| match count {
            1 => Reply::Answer(403, json!({"error": "not yet"}).to_string()),
            _ => ok(&json!({})),
        })
        .await;
        let client = ClusterClient::new(&ClientOptions {
            managers: vec![manager_address(&server.address.to_string()).unwrap()],
            agent: "node-1".to_owned(),
            token_file: None,
            tls: TlsOptions::default(),
            limits: Limits::default(),
        })
        .unwrap();
        let (sender, reports) = watch::channel(None);
        let reporter = EndpointReporter::new(client, reports);
        let requests = reporter.requests();
        assert_eq!(requests.digest(), None);
        let task = tokio::spawn(reporter.run());
        sender.send_replace(Some(report("a")));
        assert_eq!(requests.digest().as_deref(), Some("a"));
        tokio::task::yield_now().await;
        assert_eq!(server.requests().len(), 0, "before the node is registered");
        requests.answered(false);
        assert_eq!(wait_for(&server, 1).await, ["a"]);
        // The second one is refused, and sent again.
        sender.send_replace(Some(report("b")));
        assert_eq!(wait_for(&server, 3).await, ["a", "b", "b"]);
        requests.answered(false);
        requests.answered(true);
        assert_eq!(wait_for(&server, 4).await[3], "b");
        sender.send_replace(Some(report("c")));
        assert_eq!(wait_for(&server, 5).await[4], "c");
        task.abort();
    }
}
