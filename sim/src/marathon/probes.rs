//! The health checks that Marathon makes by itself.
//!
//! Invariant: a check that hangs delays no other, and ends after its timeout.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::state::Shared;
use super::store::health::{Probe, Target};
use crate::harness::clock::Timestamp;

/// How often to look for checks that are due.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs until it is aborted. Only a leader checks.
pub(super) async fn run(shared: Arc<Shared>) {
    // Without a proxy, whatever the environment says.
    let client = match reqwest::Client::builder().no_proxy().build() {
        Ok(client) => client,
        Err(error) => {
            log::error!("tasks are not checked: {error}");
            return;
        }
    };
    let mut running = JoinSet::new();
    let mut tick = interval(POLL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                if shared.leader().is_none() {
                    continue;
                }
                let probes = shared.store().due_probes(Timestamp::now());
                for probe in probes {
                    let client = client.clone();
                    running.spawn(async move {
                        let result = check(&client, &probe).await;
                        (probe, result)
                    });
                }
            }
            Some(done) = running.join_next() => {
                if let Ok((probe, result)) = done {
                    let now = Timestamp::now();
                    let mut store = shared.store();
                    store.add_probe_result(&probe.task_id, probe.check, result, now);
                    drop(store);
                    shared.wake();
                }
            }
        }
    }
}

async fn check(client: &reqwest::Client, probe: &Probe) -> Result<(), String> {
    let attempt = async {
        match &probe.target {
            Target::Port(host, port) => {
                let connected = TcpStream::connect((host.as_str(), *port)).await;
                connected.map(drop).map_err(|error| error.to_string())
            }
            Target::Url(url) => {
                let response = client.get(url).send().await;
                let status = response.map_err(|error| error.to_string())?.status();
                if status.is_success() || status.is_redirection() {
                    Ok(())
                } else {
                    Err(format!("Unhealthy status: {status}"))
                }
            }
        }
    };
    let late = || Err(format!("no answer within {:?}", probe.timeout));
    timeout(probe.timeout, attempt)
        .await
        .unwrap_or_else(|_| late())
}
