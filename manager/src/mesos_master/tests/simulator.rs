//! Against the simulated master of very many tasks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::mesos_master::{
    FollowOptions, Follower, MasterClient, MasterOptions, Masters, PORT, State as Followed, Update,
};
use contrail_mesos_api::http::{Address, LeaderOptions};
use contrail_mesos_sim::mesos_master::{Agent, Master, Task, TaskState};

const PATIENCE: Duration = Duration::from_secs(30);

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
        state: TaskState::TaskRunning,
    }
}

fn client(master: &Master) -> MasterClient {
    let address = Address::parse(&master.address().to_string(), PORT).unwrap();
    MasterClient::new(MasterOptions {
        masters: Masters::Listed(vec![address]),
        secure: false,
        access: LeaderOptions::default(),
    })
    .unwrap()
}

/// Takes updates until what was followed is what the master says when it is asked.
async fn same(follower: &mut Follower, seen: &mut Followed, client: &MasterClient) {
    let wanted = client.state().await.unwrap();
    assert!(wanted.is_complete(), "{:?}", wanted.skipped);
    while *seen != wanted {
        match timeout(PATIENCE, follower.next()).await.unwrap() {
            Update::Snapshot(state) => *seen = *state,
            Update::Changed(change) => seen.apply(change),
            Update::Lost(_) => *seen = Followed::default(),
        }
    }
}

#[tokio::test]
async fn the_client_of_the_real_one_follows_it() {
    let master = Master::start().await.unwrap();
    let client = client(&master);
    let options = FollowOptions {
        backoff: (Duration::from_millis(1), Duration::from_millis(20)),
        ..FollowOptions::default()
    };
    assert_eq!(client.state().await.unwrap(), Followed::default());
    let mut follower = Follower::start(client.clone(), options);
    let mut seen = Followed::default();
    assert!(matches!(follower.next().await, Update::Snapshot(_)));
    master.add_framework("F", "marathon");
    for number in 1..=3 {
        master.add_agent(agent(number));
        master.add_task(task(number));
    }
    same(&mut follower, &mut seen, &client).await;
    let states: BTreeSet<_> = seen
        .tasks
        .values()
        .map(|task| (task.status.container.clone().unwrap(), task.status.state))
        .collect();
    assert_eq!(states.len(), 3);
    assert_eq!(
        seen.agents["S2"].address,
        Some(IpAddr::from([192, 0, 2, 2]))
    );

    assert!(master.update_task("t1", TaskState::TaskKilling));
    assert!(master.update_task("t2", TaskState::TaskFailed));
    assert!(!master.update_task("t2", TaskState::TaskRunning));
    master.remove_agent("S3");
    same(&mut follower, &mut seen, &client).await;
    assert_eq!((seen.tasks.len(), seen.agents.len()), (2, 2));

    // Cut off, the client comes again, and is told everything.
    master.cut();
    master.add_task(task(9));
    same(&mut follower, &mut seen, &client).await;
    assert_eq!(seen.tasks.len(), 3);
    assert_eq!(master.subscriptions(), 2);
}

#[tokio::test]
async fn what_is_no_call_is_refused() {
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
