//! Tests against scripted masters.

mod simulator;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::*;
use contrail_mesos_api::http::scripted::{Reply, ScriptedServer, ok};
use contrail_mesos_api::http::{Address, CallErrorKind, Credentials, HttpError, LeaderOptions};

/// Deadline of every wait in these tests.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

fn options(servers: &[&ScriptedServer]) -> MasterOptions {
    let address = |server: &&ScriptedServer| {
        Address::parse(&server.address.to_string(), DEFAULT_PORT).unwrap()
    };
    MasterOptions {
        masters: Masters::Listed(servers.iter().map(address).collect()),
        secure: false,
        access: LeaderOptions::default(),
    }
}

fn fast_options() -> FollowOptions {
    FollowOptions {
        backoff: (Duration::from_millis(1), Duration::from_millis(20)),
        ..FollowOptions::default()
    }
}

fn follow(servers: &[&ScriptedServer], follow: FollowOptions) -> Follower {
    Follower::start(MasterClient::new(options(servers)).unwrap(), follow)
}

fn record(event: &Value) -> Vec<u8> {
    let event = event.to_string();
    format!("{}\n{event}", event.len()).into_bytes()
}

fn subscribed() -> Vec<u8> {
    record(
        &json!({"type": "SUBSCRIBED", "subscribed": {"get_state": {"get_agents": {"agents": [
        {"agent_info": {"id": {"value": "S0"}, "hostname": "h0"}, "active": true}]},
        "get_tasks": {}, "get_frameworks": {}, "get_executors": {}},
        "heartbeat_interval_seconds": 0.001}}),
    )
}

fn removed(agent: &str) -> Vec<u8> {
    record(&json!({"type": "AGENT_REMOVED", "agent_removed": {"agent_id": {"value": agent}}}))
}

/// A scripted leading master whose events the test sends.
struct Leader {
    server: ScriptedServer,
    feed: broadcast::Sender<Vec<u8>>,
}

impl Leader {
    async fn start() -> Self {
        let (feed, _) = broadcast::channel(1 << 15);
        let parts = feed.clone();
        let server = ScriptedServer::start(move |request, _| {
            if request.line() == "POST /api/v1" && request.json()["type"] == "SUBSCRIBE" {
                Reply::Stream("application/json", parts.clone())
            } else {
                Reply::Answer(404, String::new())
            }
        });
        Self {
            server: server.await,
            feed,
        }
    }

    async fn send(&self, parts: &[Vec<u8>]) {
        let open = async {
            while self.feed.receiver_count() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, open)
            .await
            .expect("the follower must connect");
        for part in parts {
            self.feed.send(part.clone()).unwrap();
        }
    }
}

async fn next(follower: &mut Follower) -> Update {
    timeout(TEST_TIMEOUT, follower.next())
        .await
        .expect("an update must arrive")
}

async fn snapshot(follower: &mut Follower) -> State {
    match next(follower).await {
        Update::Snapshot(state) => *state,
        other => panic!("{other:?}"),
    }
}

async fn lost(follower: &mut Follower) -> CallErrorKind {
    match next(follower).await {
        Update::Lost(error) => error.kind,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn follower_reports_snapshot_then_changes() {
    let leader = Leader::start().await;
    let mut follower = follow(&[&leader.server], fast_options());
    let bytes = [
        subscribed(),
        record(&json!({"type": "HEARTBEAT"})),
        removed("S0"),
    ]
    .concat();
    let parts: Vec<Vec<u8>> = bytes.into_iter().map(|byte| vec![byte]).collect();
    leader.send(&parts).await;
    let mut state = snapshot(&mut follower).await;
    assert!(state.agents.contains_key("S0"));
    match next(&mut follower).await {
        Update::Changed(change) => state.apply(change),
        other => panic!("{other:?}"),
    }
    assert_eq!(state, State::default());
    let requests = leader.server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("accept"), Some("application/json"));
}

#[tokio::test]
async fn malformed_stream_causes_new_snapshot() {
    let leader = Leader::start().await;
    let mut follower = follow(&[&leader.server], fast_options());
    leader.send(&[subscribed()]).await;
    snapshot(&mut follower).await;
    for (malformed, is_expected) in [
        (
            vec![],
            (|problem| matches!(problem, CallErrorKind::Ended)) as fn(&CallErrorKind) -> bool,
        ),
        (b"<html>nothing of the kind</html>".to_vec(), |problem| {
            matches!(problem, CallErrorKind::Stream(_))
        }),
        (b"3\n{]}".to_vec(), |problem| {
            matches!(problem, CallErrorKind::InvalidResponse { .. })
        }),
        (record(&json!({"type": "TASK_ADDED"})), |problem| {
            matches!(problem, CallErrorKind::InvalidResponse { .. })
        }),
    ] {
        leader.send(&[malformed]).await;
        let problem = lost(&mut follower).await;
        assert!(is_expected(&problem), "{problem:?}");
        // The old connection may close late: retry until there is a new one.
        loop {
            leader.send(&[subscribed()]).await;
            match timeout(Duration::from_millis(200), follower.next()).await {
                Ok(Update::Snapshot(_)) => break,
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
        }
    }
}

#[tokio::test]
async fn silent_stream_is_lost() {
    let leader = Leader::start().await;
    let options = FollowOptions {
        idle_timeout: Duration::from_millis(300),
        ..fast_options()
    };
    let mut follower = follow(&[&leader.server], options);
    leader.send(&[subscribed()]).await;
    snapshot(&mut follower).await;
    let problem = lost(&mut follower).await;
    assert!(
        matches!(problem, CallErrorKind::Http(HttpError::IdleTimeout(_))),
        "{problem:?}"
    );
}

#[tokio::test]
async fn slow_consumer_gets_new_snapshot() {
    let leader = Leader::start().await;
    let options = FollowOptions {
        queue_capacity: 4,
        ..fast_options()
    };
    let mut follower = follow(&[&leader.server], options);
    leader.send(&[subscribed()]).await;
    leader.send(&vec![removed("S0"); 100]).await;
    snapshot(&mut follower).await;
    let problem = loop {
        match next(&mut follower).await {
            Update::Changed(_) => {}
            Update::Lost(error) => break error.kind,
            Update::Snapshot(_) => panic!("snapshot before the stream was lost"),
        }
    };
    assert!(matches!(problem, CallErrorKind::Stream(_)), "{problem:?}");
}

#[tokio::test]
async fn requested_resync_makes_one_new_snapshot() {
    let leader = Leader::start().await;
    let options = FollowOptions {
        lost_agent_resync_delay: Duration::from_millis(50),
        ..fast_options()
    };
    let mut follower = follow(&[&leader.server], options);
    leader.send(&[subscribed(), removed("S0")]).await;
    snapshot(&mut follower).await;
    assert!(matches!(next(&mut follower).await, Update::Changed(_)));
    for _ in 0..3 {
        follower.request_resync();
    }
    let again = async {
        while leader.server.requests().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, again)
        .await
        .expect("the follower must subscribe again");
    // The first stream may still be open: send until the second one has the state.
    loop {
        leader.send(&[subscribed()]).await;
        match timeout(Duration::from_millis(200), follower.next()).await {
            Ok(Update::Snapshot(_)) => break,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }
}

#[tokio::test]
async fn redirect_to_leader_sends_credentials() {
    let leader = Leader::start().await;
    let location: &'static str = format!("//{}/api/v1", leader.server.address).leak();
    let standby =
        ScriptedServer::start(move |_, _| Reply::WithHeader(307, "location", location)).await;
    let none =
        ScriptedServer::start(|_, _| Reply::Answer(503, "No leader elected".to_owned())).await;
    let mut options = options(&[&none, &standby]);
    options.access.credentials = Credentials::Basic {
        user: "u".to_owned(),
        password: "p".into(),
    };
    let mut follower = Follower::start(MasterClient::new(options).unwrap(), fast_options());
    leader.send(&[subscribed()]).await;
    snapshot(&mut follower).await;
    let requests = leader.server.requests();
    assert_eq!(requests[0].header("authorization"), Some("Basic dTpw"));
    assert_eq!(requests[0].json()["type"], "SUBSCRIBE");
}

#[tokio::test]
async fn invalid_response_is_error_and_not_empty_state() {
    for reply in [
        Reply::Answer(503, "No leader elected".to_owned()),
        Reply::Answer(500, "{}".to_owned()),
        Reply::Answer(403, String::new()),
        ok(&"<html>"),
        ok(&""),
        ok(&"{}"),
        ok(&r#"{"get_state": null}"#),
        ok(&r#"{"get_state": {"get_tasks""#),
        Reply::Close,
        Reply::Truncate,
    ] {
        let description = format!("{reply:?}");
        let server = ScriptedServer::start(move |_, _| reply.clone()).await;
        let client = MasterClient::new(options(&[&server])).unwrap();
        let error = client.state().await.expect_err(&description);
        assert!(
            error
                .to_string()
                .starts_with("cannot read the state of Mesos at http"),
            "{error}"
        );
        let mut follower = follow(&[&server], fast_options());
        lost(&mut follower).await;
    }
}
