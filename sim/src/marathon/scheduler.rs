//! The scheduler between the store and the Mesos master: it subscribes, again after each lost
//! connection, passes offers and statuses to the store, and executes the store's decisions.
//!
//! Invariant: a task is in the store before Mesos is asked to launch it, and a status is in the
//! store before it is acknowledged.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::events::Event;
use super::instance::Condition;
use super::launch::Placement;
use super::launch::offer::Offer;
use super::mesos::{Caller, Events, MesosError, subscribe};
use super::state::Shared;
use super::status::TaskStatus;
use super::store::scheduling::Kill;
use crate::harness::clock::Timestamp;

/// How often to check for expired delays and kills to repeat.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// `--min_revive_offers_interval`: when to request offers again while an instance waits for one.
const REVIVE_INTERVAL: Duration = Duration::from_secs(5);
/// `--reconciliation_interval`.
const RECONCILIATION_INTERVAL: Duration = Duration::from_mins(10);
/// `--decline_offer_duration`, in seconds; reviving ends it.
const DECLINE_SECONDS: f64 = 120.0;

/// Runs until it is aborted. Only the leader schedules; a new leader takes over the framework.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut leader = shared.leader.subscribe();
    loop {
        let leads = leader.borrow_and_update().is_some();
        let lead = async {
            if leads {
                lead(&shared).await;
            }
        };
        tokio::select! {
            changed = leader.changed() => if changed.is_err() {
                return;
            },
            () = lead, if leads => {}
        }
    }
}

/// Schedules until the leader changes.
async fn lead(shared: &Shared) {
    let master = &shared.options.master;
    let host = master.rsplit_once(':').map_or(&**master, |(host, _)| host);
    let mut registered = false;
    loop {
        match subscribe(master, &framework_info(shared)).await {
            Ok((caller, events)) => {
                let id = caller.framework_id();
                log::info!("subscribed at {master} as {id}");
                shared.store().framework_id = Some(id.to_owned());
                shared.bus.publish(if registered {
                    Event::reregistered(host)
                } else {
                    Event::registered(id, host)
                });
                registered = true;
                let ended = Session::new(shared, caller).follow(events).await;
                log::warn!("{ended}; subscribing again");
                shared.bus.publish(Event::disconnected());
            }
            Err(error) => log::warn!("cannot subscribe at {master}: {error}"),
        }
        sleep(RECONNECT_DELAY).await;
    }
}

fn framework_info(shared: &Shared) -> Value {
    let options = &shared.options;
    let address = shared.leader_address().unwrap_or(options.listen);
    let capabilities = [
        "PARTITION_AWARE",
        "TASK_KILLING_STATE",
        "MULTI_ROLE",
        "REGION_AWARE",
    ]
    .map(|kind| json!({"type": kind}));
    let mut info = json!({
        "user": "root",
        "name": options.framework_name,
        "roles": [options.defaults.role],
        "capabilities": capabilities,
        "checkpoint": true,
        "failover_timeout": options.failover_timeout.as_secs_f64(),
        "hostname": address.ip().to_string(),
        "webui_url": format!("http://{address}"),
    });
    if let Some(id) = &shared.store().framework_id {
        info["id"] = json!({"value": id});
    }
    info
}

/// One subscription.
struct Session<'a> {
    shared: &'a Shared,
    caller: Caller,
    revived: Option<Instant>,
    /// How many instances waited for an offer at the last request for offers; none while offers are
    /// suppressed.
    demand: Option<usize>,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, caller: Caller) -> Self {
        Self {
            shared,
            caller,
            revived: None,
            demand: Some(0),
        }
    }

    /// Follows the events, and returns why they ended.
    async fn follow(mut self, mut events: Events) -> MesosError {
        let mut tick = interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reconcile = Instant::now() + self.shared.options.reconciliation_initial_delay;
        loop {
            let done = tokio::select! {
                event = events.next() => match event {
                    Ok(event) => self.handle(&event).await,
                    Err(error) => return error,
                },
                () = self.shared.changed.notified() => self.act().await,
                _ = tick.tick() => self.act().await,
                () = sleep_until(reconcile) => {
                    reconcile = Instant::now() + RECONCILIATION_INTERVAL;
                    self.reconcile().await
                }
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    async fn handle(&mut self, event: &Value) -> Result<(), MesosError> {
        match event["type"].as_str().unwrap_or_default() {
            "OFFERS" => {
                let offers = event.pointer("/offers/offers").and_then(Value::as_array);
                for offer in offers.into_iter().flatten().filter_map(Offer::from_json) {
                    self.answer(offer).await?;
                }
            }
            "UPDATE" => self.update(&event["update"]["status"]).await?,
            "ERROR" => {
                // The master has removed the framework, so register a new one.
                log::error!("the master says: {}", event["error"]["message"]);
                self.shared.store().framework_id = None;
                return Err(MesosError::Ended);
            }
            "FAILURE" => log::info!("agent or executor lost: {}", event["failure"]),
            // HEARTBEAT and SUBSCRIBED; RESCIND, as each offer is answered at once.
            _ => {}
        }
        Ok(())
    }

    async fn answer(&self, mut offer: Offer) -> Result<(), MesosError> {
        let now = Timestamp::now();
        let placements = self.shared.store().launch(&mut offer, now);
        let call = if placements.is_empty() {
            json!({"type": "DECLINE", "decline": {
                "offer_ids": [{"value": offer.id}],
                "filters": {"refuse_seconds": DECLINE_SECONDS},
            }})
        } else {
            let operations: Vec<&Value> = placements
                .iter()
                .map(|placement| &placement.operation)
                .collect();
            json!({"type": "ACCEPT", "accept": {
                "offer_ids": [{"value": offer.id}],
                "operations": operations,
                // The master applies this filter later: a longer one could follow the next REVIVE
                // and undo it.
                "filters": {"refuse_seconds": 0.0},
            }})
        };
        for task in placements.iter().flat_map(|placed| &placed.tasks) {
            log::info!("launching {} on {}", task.id, offer.hostname);
        }
        let called = self.caller.call(call).await;
        if let Err(error) = &called {
            self.drop_tasks(&placements, &error.to_string());
        }
        called
    }

    /// Fails the tasks that Mesos was never asked to launch.
    fn drop_tasks(&self, placements: &[Placement], why: &str) {
        let mut store = self.shared.store();
        for task in placements.iter().flat_map(|placed| &placed.tasks) {
            let dropped = TaskStatus {
                task_id: task.id.clone(),
                agent_id: None,
                condition: Condition::Dropped,
                message: Some(why.to_owned()),
                healthy: None,
                addresses: None,
            };
            let _ = store.apply(dropped, Timestamp::now());
        }
    }

    async fn update(&mut self, status: &Value) -> Result<(), MesosError> {
        if let Some(known) = TaskStatus::from_json(status) {
            let message = known.message.as_deref().unwrap_or_default();
            log::info!(
                "{} is {} {message}",
                known.task_id,
                known.condition.mesos_state()
            );
            let kill = self.shared.store().apply(known, Timestamp::now());
            if let Some(kill) = kill {
                self.kill(&kill).await?;
            }
        }
        if let Some(uuid) = status.get("uuid") {
            let acknowledge = json!({
                "agent_id": status["agent_id"],
                "task_id": status["task_id"],
                "uuid": uuid,
            });
            let call = json!({"type": "ACKNOWLEDGE", "acknowledge": acknowledge});
            self.caller.call(call).await?;
        }
        self.act().await
    }

    async fn kill(&self, kill: &Kill) -> Result<(), MesosError> {
        log::info!("killing {}", kill.task_id);
        self.caller
            .call(json!({"type": "KILL", "kill": task(kill)}))
            .await
    }

    /// Sends the kills that are due, and requests or suppresses offers.
    async fn act(&mut self) -> Result<(), MesosError> {
        let now = Timestamp::now();
        let (kills, demand) = {
            let mut store = self.shared.store();
            (store.kills(now), store.demand(now))
        };
        for kill in kills {
            self.kill(&kill).await?;
        }
        let waited = self.revived.is_none_or(|at| at.elapsed() > REVIVE_INTERVAL);
        if demand == 0 {
            if self.demand.is_some() {
                self.caller.call(json!({"type": "SUPPRESS"})).await?;
            }
            self.demand = None;
        } else if waited || self.demand.is_none_or(|before| before < demand) {
            self.caller.call(json!({"type": "REVIVE"})).await?;
            self.revived = Some(Instant::now());
            self.demand = Some(demand);
        } else {
            self.demand = Some(demand);
        }
        Ok(())
    }

    async fn reconcile(&self) -> Result<(), MesosError> {
        let known = self.shared.store().known_tasks();
        // Without tasks the call covers all of them, so that unknown ones are found too.
        if !known.is_empty() {
            let tasks: Vec<Value> = known.iter().map(task).collect();
            let call = json!({"type": "RECONCILE", "reconcile": {"tasks": tasks}});
            self.caller.call(call).await?;
        }
        let call = json!({"type": "RECONCILE", "reconcile": {"tasks": []}});
        self.caller.call(call).await
    }
}

/// A task as `Call.Kill` and `Call.Reconcile.Task` name it.
fn task(kill: &Kill) -> Value {
    let mut task = json!({"task_id": {"value": kill.task_id}});
    if let Some(agent_id) = &kill.agent_id {
        task["agent_id"] = json!({"value": agent_id});
    }
    task
}
