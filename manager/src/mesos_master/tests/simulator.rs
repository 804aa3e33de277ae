//! Tests against the simulated master.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::mesos_master::{
    DEFAULT_PORT, FollowOptions, Follower, MasterClient, MasterOptions, Masters,
    State as MasterState, Update,
};
use contrail_mesos_api::http::{Address, LeaderOptions};
use contrail_mesos_sim::mesos_master::{Agent, Master, Task, TaskState};

const TEST_TIMEOUT: Duration = Duration::from_secs(30);

fn agent(number: u8) -> Agent {
    Agent {
        id: format!("S{number}").into(),
        host: format!("node{number}.example").into(),
        address: IpAddr::from([192, 0, 2, number]),
    }
}

fn task(number: u8) -> Task {
    Task {
        id: format!("t{number}").into(),
        framework: "F".into(),
        agent: "S1".into(),
        container: format!("c{number}").into(),
        network: ("contrail".into(), IpAddr::from([10, 0, 0, number])),
        vip: None,
        state: TaskState::TaskRunning,
    }
}

fn client(master: &Master) -> MasterClient {
    let address = Address::parse(&master.address().to_string(), DEFAULT_PORT).unwrap();
    MasterClient::new(MasterOptions {
        masters: Masters::Listed(vec![address]),
        secure: false,
        access: LeaderOptions::default(),
    })
    .unwrap()
}

/// Applies updates until the followed state equals the master's state.
async fn wait_until_equal(
    follower: &mut Follower,
    current: &mut MasterState,
    client: &MasterClient,
) {
    let expected = client.state().await.unwrap();
    assert!(expected.is_complete(), "{:?}", expected.skipped);
    while *current != expected {
        match timeout(TEST_TIMEOUT, follower.next()).await.unwrap() {
            Update::Snapshot(state) => *current = *state,
            Update::Changed(change) => current.apply(change),
            Update::Lost(_) => *current = MasterState::default(),
        }
    }
}

#[tokio::test]
async fn follower_tracks_simulated_master() {
    let master = Master::start().await.unwrap();
    let client = client(&master);
    let options = FollowOptions {
        backoff: (Duration::from_millis(1), Duration::from_millis(20)),
        ..FollowOptions::default()
    };
    assert_eq!(client.state().await.unwrap(), MasterState::default());
    let mut follower = Follower::start(client.clone(), options);
    let mut current = MasterState::default();
    assert!(matches!(follower.next().await, Update::Snapshot(_)));
    master.add_framework("F", "marathon");
    for number in 1..=3 {
        master.add_agent(agent(number));
        master.add_task(task(number));
    }
    wait_until_equal(&mut follower, &mut current, &client).await;
    let states: BTreeSet<_> = current
        .tasks
        .values()
        .map(|task| (task.status.container.clone().unwrap(), task.status.state))
        .collect();
    assert_eq!(states.len(), 3);
    assert_eq!(
        current.agents["S2"].address,
        Some(IpAddr::from([192, 0, 2, 2]))
    );

    assert!(master.update_task("t1", TaskState::TaskKilling));
    assert!(master.update_task("t2", TaskState::TaskFailed));
    assert!(!master.update_task("t2", TaskState::TaskRunning));
    master.remove_agent("S3");
    wait_until_equal(&mut follower, &mut current, &client).await;
    assert_eq!((current.tasks.len(), current.agents.len()), (2, 2));

    // After a cut, the follower subscribes again and receives the whole state.
    master.cut();
    master.add_task(task(9));
    wait_until_equal(&mut follower, &mut current, &client).await;
    assert_eq!(current.tasks.len(), 3);
    assert_eq!(master.subscriptions(), 2);
}

#[tokio::test]
async fn invalid_calls_are_rejected() {
    let master = Master::start().await.unwrap();
    let url = format!("http://{}/api/v1", master.address());
    let http = reqwest::Client::new();
    for (kind, body, status) in [
        ("application/json", "{", 400),
        ("application/json", "{}", 400),
        ("text/plain", r#"{"type":"GET_STATE"}"#, 415),
        ("application/json", r#"{"type":"GET_STATE"}"#, 200),
    ] {
        let answer = http.post(&url).header("content-type", kind).body(body);
        assert_eq!(
            answer.send().await.unwrap().status(),
            status,
            "{kind} {body}"
        );
    }
}
