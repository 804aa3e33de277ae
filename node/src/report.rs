//! Reports the state of this node to the managers.
//!
//! A report is sent at the start, when something changes, and in intervals. What was only applied is
//! reported with a delay, because all nodes of a cluster apply the same revision at once.

use std::net::IpAddr;
use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use contrail_mesos_api::cluster::{BlockReport, ClusterClient, NodeAnswer, NodeReport, Versions};
use contrail_mesos_api::text::{truncate, with_causes};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::blocks::BlockReports;
use crate::endpoint_report::EndpointRequests;
use crate::engine::EngineStatus;
use crate::uplink;

/// How long one report is retried.
const REPORT_TIMEOUT: Duration = Duration::from_secs(15);
/// The delays after a report that failed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// The delay after a change, in which others may come. With jitter 100 to 200 ms.
const CHANGE_DELAY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(100));
/// The delay after a new revision was applied. With jitter 1 to 2 s.
const APPLIED_DELAY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
/// How many problems of an answer are kept, and how long each may be.
const MAX_PROBLEMS: usize = 50;
const MAX_PROBLEM_CHARS: usize = 500;

/// What came of the reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ReportStatus {
    /// The address that was reported last.
    pub address: Option<IpAddr>,
    /// What the managers cannot give this node, after the last report.
    pub problems: Vec<String>,
    /// Why the last report failed, if it did.
    pub failure: Option<String>,
    /// How many reports were answered.
    pub reports: u64,
    /// How many reports failed.
    pub failures: u64,
}

/// What the reports have besides the state of the subsystems.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// The configured address. Without it, that of the route to the first manager.
    pub address: Option<IpAddr>,
    /// How often a report is sent if nothing changes.
    pub interval: Duration,
    /// The versions of this node's programs.
    pub versions: Versions,
    /// The hash of the configuration.
    pub configuration: String,
}

/// Waits until other blocks are wanted, or forever if nobody keeps blocks.
async fn next_change(blocks: &mut BlockReports) {
    if blocks.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Sends the reports.
#[derive(Debug)]
pub struct Reporter {
    client: ClusterClient,
    options: ReportOptions,
    engine: watch::Receiver<EngineStatus>,
    endpoints: EndpointRequests,
    blocks: BlockReports,
    status: watch::Sender<ReportStatus>,
}

impl Reporter {
    /// A reporter of the state of these subsystems and of what this host wants of `blocks`, which tells
    /// `endpoints` what the managers lack.
    #[must_use]
    pub fn new(
        client: ClusterClient,
        options: ReportOptions,
        engine: watch::Receiver<EngineStatus>,
        endpoints: EndpointRequests,
        blocks: BlockReports,
        status: watch::Sender<ReportStatus>,
    ) -> Self {
        Self {
            client,
            options,
            engine,
            endpoints,
            blocks,
            status,
        }
    }

    /// Reports until the subsystems have stopped.
    pub async fn run(mut self) {
        let mut retries = RETRY.delays();
        loop {
            let state = self.engine.borrow_and_update().clone();
            let blocks = self.blocks.borrow_and_update().clone();
            let result = self.report(&state, blocks).await;
            let next = match &result {
                Ok(_) => {
                    retries = RETRY.delays();
                    self.options.interval
                }
                Err(_) => retries.next_delay().min(self.options.interval),
            };
            let is_success = result.is_ok();
            self.conclude(result);
            if !self.wait(&state, Instant::now() + next, is_success).await {
                return;
            }
        }
    }

    /// Waits until the next report is due. Returns false once the subsystems have stopped.
    async fn wait(&mut self, reported: &EngineStatus, mut due: Instant, is_success: bool) -> bool {
        loop {
            let changed = async {
                tokio::select! {
                    changed = self.engine.changed() => changed.map(|()| false),
                    () = next_change(&mut self.blocks) => Ok(true),
                }
            };
            match timeout_at(due, changed).await {
                // It is due.
                Err(_) => return true,
                Ok(Err(_)) => return false,
                // What failed is not sent more often because something has changed.
                Ok(Ok(_)) if !is_success => {
                    sleep_until(due).await;
                    return true;
                }
                // A launch may wait for a block.
                Ok(Ok(true)) => due = due.min(Instant::now() + CHANGE_DELAY.delays().next_delay()),
                Ok(Ok(false)) => {
                    let now = self.engine.borrow_and_update();
                    let delay = if now.reports() != reported.reports() {
                        CHANGE_DELAY
                    } else if now.applied() != reported.applied() {
                        APPLIED_DELAY
                    } else {
                        continue;
                    };
                    due = due.min(Instant::now() + delay.delays().next_delay());
                }
            }
        }
    }

    async fn report(
        &self,
        state: &EngineStatus,
        blocks: Vec<BlockReport>,
    ) -> Result<(IpAddr, NodeAnswer), String> {
        let managers = self.client.managers().to_vec();
        let configured = self.options.address;
        // Names are resolved, and the kernel is asked.
        let found = tokio::task::spawn_blocking(move || {
            let address = match configured {
                Some(address) => address,
                None => uplink::address_towards(&managers).map_err(|error| error.to_string())?,
            };
            // A report without the MTU is better than none.
            Ok::<_, String>((address, uplink::of_this_host(address).ok().flatten()))
        });
        let (address, uplink) = found.await.map_err(|error| error.to_string())??;
        let report = NodeReport {
            address,
            uplink_mtu: uplink.map(|uplink| uplink.mtu),
            versions: self.options.versions.clone(),
            configuration: self.options.configuration.clone(),
            applied: state.applied(),
            subsystems: state.reports(),
            endpoints: self.endpoints.digest(),
            blocks,
        };
        let deadline = Instant::now() + REPORT_TIMEOUT;
        let answer = self.client.report(&report, deadline).await;
        answer
            .map(|answer| (address, answer))
            .map_err(|error| with_causes(&error))
    }

    fn conclude(&self, result: Result<(IpAddr, NodeAnswer), String>) {
        match result {
            Ok((address, answer)) => {
                self.endpoints.answered(answer.send_endpoints);
                let problems: Vec<_> = answer
                    .problems
                    .iter()
                    .take(MAX_PROBLEMS)
                    .map(|problem| truncate(problem, MAX_PROBLEM_CHARS))
                    .collect();
                let (known, had_failed) = {
                    let status = self.status.borrow();
                    (status.problems.clone(), status.failure.is_some())
                };
                for problem in problems.iter().filter(|problem| !known.contains(problem)) {
                    log::warn!("the managers report a problem of this node: {problem}");
                }
                if had_failed {
                    log::info!("the managers accept this node's reports again");
                }
                self.status.send_modify(|status| {
                    status.address = Some(address);
                    status.problems = problems;
                    status.failure = None;
                    status.reports += 1;
                });
            }
            Err(failure) => {
                if self.status.borrow().failure.as_ref() != Some(&failure) {
                    log::warn!("{failure}");
                }
                self.status.send_modify(|status| {
                    status.failure = Some(failure);
                    status.failures += 1;
                });
            }
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
    use crate::endpoint_report::EndpointReporter;
    use crate::engine::SubsystemStatus;
    use crate::groups::GroupsView;
    use crate::testing::revision;

    struct Reporting {
        blocks: watch::Sender<Vec<BlockReport>>,
        engine: watch::Sender<EngineStatus>,
        status: watch::Receiver<ReportStatus>,
        task: tokio::task::JoinHandle<()>,
    }

    fn start(server: &ScriptedServer, interval: Duration) -> Reporting {
        let client = ClusterClient::new(&ClientOptions {
            managers: vec![manager_address(&server.address.to_string()).unwrap()],
            agent: "node-1".to_owned(),
            token_file: None,
            tls: TlsOptions::default(),
            limits: Limits::default(),
        })
        .unwrap();
        let options = ReportOptions {
            address: Some("192.0.2.1".parse().unwrap()),
            interval,
            versions: Versions::default(),
            configuration: "abc".to_owned(),
        };
        let (engine, receiver) = watch::channel(EngineStatus {
            subsystems: vec![SubsystemStatus::new("overlay")],
        });
        let (sender, status) = watch::channel(ReportStatus::default());
        let view = GroupsView::default();
        let endpoints = EndpointReporter::new(client.clone(), view.report);
        let blocks = watch::Sender::default();
        let reporter = Reporter::new(
            client,
            options,
            receiver,
            endpoints.requests(),
            blocks.subscribe(),
            sender,
        );
        Reporting {
            blocks,
            engine,
            status,
            task: tokio::spawn(reporter.run()),
        }
    }

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn reports_follow_changes_and_stop_with_the_subsystems() {
        let server = ScriptedServer::start(|_, count| match count {
            0 => ok(&json!({"problems": ["overlay dcos is used up"]})),
            _ => ok(&json!({})),
        })
        .await;
        let mut reporting = start(&server, LONG);
        let answered = |count| move |status: &ReportStatus| status.reports >= count;
        let status = reporting
            .status
            .wait_for(answered(1))
            .await
            .unwrap()
            .clone();
        assert_eq!(status.problems, ["overlay dcos is used up"]);
        reporting.engine.send_modify(|status| {
            status.subsystems[0].problems = vec!["the device is foreign".to_owned()];
        });
        let status = reporting
            .status
            .wait_for(answered(2))
            .await
            .unwrap()
            .clone();
        assert_eq!(status.problems, [] as [&str; 0]);
        reporting.engine.send_modify(|status| {
            status.subsystems[0].applied = Some(revision("3.4"));
        });
        reporting.status.wait_for(answered(3)).await.unwrap();
        let reports: Vec<_> = server
            .requests()
            .iter()
            .map(ReceivedRequest::json)
            .collect();
        assert_eq!(reports[0].get("applied"), None);
        assert_eq!(reports[0]["configuration"], "abc");
        let subsystems = json!([{"name": "overlay", "problems": ["the device is foreign"]}]);
        assert_eq!(reports[1]["subsystems"], subsystems);
        assert_eq!(reports[2]["applied"], "3.4");
        drop(reporting.engine);
        reporting.task.await.unwrap();
    }

    #[tokio::test]
    async fn wanted_blocks_are_reported_at_once() {
        let server = ScriptedServer::start(|_, _| ok(&json!({}))).await;
        let mut reporting = start(&server, LONG);
        let answered = |count| move |status: &ReportStatus| status.reports >= count;
        reporting.status.wait_for(answered(1)).await.unwrap();
        reporting.blocks.send_replace(vec![BlockReport {
            overlay: "dcos".to_owned(),
            used: 3,
            wanted: 7,
            ..BlockReport::default()
        }]);
        reporting.status.wait_for(answered(2)).await.unwrap();
        let reports: Vec<_> = server
            .requests()
            .iter()
            .map(ReceivedRequest::json)
            .collect();
        assert_eq!(reports[0].get("blocks"), None);
        assert_eq!(reports[1]["blocks"][0]["wanted"], 7);
        // Without anybody who keeps blocks, reports go on.
        drop(reporting.blocks);
        reporting.engine.send_modify(|status| {
            status.subsystems[0].problems = vec!["the device is foreign".to_owned()];
        });
        reporting.status.wait_for(answered(3)).await.unwrap();
        reporting.task.abort();
    }

    #[tokio::test]
    async fn reports_are_repeated_and_failures_retried() {
        let server = ScriptedServer::start(|_, count| match count {
            1 => Reply::Answer(403, json!({"error": "not yours"}).to_string()),
            _ => ok(&json!({})),
        })
        .await;
        let mut reporting = start(&server, Duration::from_millis(20));
        let failed = |status: &ReportStatus| status.failure.is_some();
        let failure = reporting
            .status
            .wait_for(failed)
            .await
            .unwrap()
            .failure
            .clone();
        assert!(failure.unwrap().contains("not yours"));
        let recovered = |status: &ReportStatus| status.failure.is_none() && status.reports >= 2;
        reporting.status.wait_for(recovered).await.unwrap();
        reporting.task.abort();
    }
}
