//! Tests of the follower's state machine.

use super::*;
use contrail_mesos_api::http::{CallErrorKind, Credentials, HttpError, RedirectError, Redirects};

#[tokio::test]
async fn follower_attaches_lists_and_follows() {
    let leader = Leader::start().await;
    let mut follower = leader.follow();
    // Events before the attached event are ignored.
    leader
        .send(1, &[terminated("/before"), b"\r\n".to_vec()])
        .await;
    leader.send(1, &[attached()]).await;
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    let bytes: Vec<Vec<u8>> = terminated("/a")
        .into_iter()
        .map(|byte| vec![byte])
        .collect();
    leader.send(1, &bytes).await;
    assert_eq!(changed(&mut follower).await, "/a");
    let requests = leader.server.requests();
    assert_eq!(requests[0].line(), "GET /v2/events");
    assert_eq!(requests[0].header("accept"), Some("text/event-stream"));
    assert!(
        requests[0]
            .path
            .contains("event_type=event_stream_attached"),
        "{}",
        requests[0].path
    );
    assert_eq!(
        leader
            .server
            .lines()
            .iter()
            .filter(|line| *line == "GET /v2/events")
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_received_during_list_follow_snapshot() {
    let (go, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let leader = Leader::start_with(move |request, before| {
        // The first listing is outdated when it arrives.
        if request.line() == "GET /v2/pods/::status" && before == 0 {
            tokio::task::block_in_place(|| held.lock().unwrap().recv().unwrap());
        }
        None
    })
    .await;
    let mut follower = leader.follow();
    leader
        .send(
            1,
            &[
                attached(),
                terminated("/a"),
                terminated("/b"),
                terminated("/a"),
            ],
        )
        .await;
    go.send(()).unwrap();
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    assert_eq!(changed(&mut follower).await, "/a");
    assert_eq!(changed(&mut follower).await, "/b");
    leader.send(1, &[terminated("/c")]).await;
    let mut next = changed(&mut follower).await;
    if next == "/a" {
        // The second event for it may be queued after the first was consumed.
        next = changed(&mut follower).await;
    }
    assert_eq!(next, "/c");
}

#[tokio::test]
async fn malformed_event_triggers_list_on_same_stream() {
    let leader = Leader::start().await;
    let mut follower = leader.follow();
    leader.send(1, &[attached()]).await;
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    for (number, malformed) in [
        event("status_update_event", &json!({"taskId": null})),
        b"event: app_terminated_event\r\ndata: {\"appId\": \r\n\r\n".to_vec(),
        b"data: <html>\r\n\r\n".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        leader.send(1, &[malformed]).await;
        assert_eq!(
            snapshot(&mut follower).await,
            [format!("/list-{}", number + 1)]
        );
    }
    // Unknown events do not trigger a listing.
    let unknown = event("a_newer_event", &json!({"x": null}));
    leader.send(1, &[unknown, terminated("/a")]).await;
    assert_eq!(changed(&mut follower).await, "/a");
    assert_eq!(leader.feed.receiver_count(), 1);
}

#[tokio::test]
async fn lost_stream_is_reopened_and_listed() {
    let leader = Leader::start().await;
    let mut follower = leader.follow();
    leader.send(1, &[attached()]).await;
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    let long = format!("data: {}\r\n", "x".repeat(20_000)).into_bytes();
    for (number, (last, is_expected)) in [
        (
            vec![],
            (|problem| matches!(problem, CallErrorKind::Ended)) as fn(&CallErrorKind) -> bool,
        ),
        (b"data: \xff\xfe\r\n\r\n".to_vec(), |problem| {
            matches!(problem, CallErrorKind::Stream(_))
        }),
        (long, |problem| {
            matches!(
                problem,
                CallErrorKind::Http(HttpError::BodyTooLarge(10_000))
            )
        }),
    ]
    .into_iter()
    .enumerate()
    {
        leader.send(1, &[last]).await;
        let problem = lost(&mut follower).await;
        assert!(is_expected(&problem), "{problem:?}");
        // The old connection may close late: retry until the new one is attached.
        let listed = loop {
            leader.send(1, &[attached()]).await;
            let update = timeout(Duration::from_millis(200), follower.next()).await;
            match update {
                Ok(Update::Snapshot(listing)) => break listing,
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
        };
        assert_eq!(listed.apps[0].id.as_str(), format!("/list-{}", number + 1));
    }
}

#[tokio::test]
async fn silent_stream_is_lost_unless_keep_alives_arrive() {
    let leader = Leader::start().await;
    let options = FollowOptions {
        idle_timeout: Duration::from_secs(2),
        ..fast_options()
    };
    let mut follower = Follower::start(client(&[&leader.server]), options);
    leader.send(1, &[attached()]).await;
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    // Longer than the idle timeout, in halves, as Jetty sends them.
    for half in [b"\r", b"\n"].iter().cycle().take(24) {
        leader.send(1, &[half.to_vec()]).await;
        tokio::time::sleep(Duration::from_millis(125)).await;
    }
    leader.send(1, &[terminated("/alive")]).await;
    assert_eq!(changed(&mut follower).await, "/alive");
    let problem = lost(&mut follower).await;
    assert!(
        matches!(problem, CallErrorKind::Http(HttpError::IdleTimeout(_))),
        "{problem:?}"
    );
}

#[tokio::test]
async fn slow_consumer_receives_each_key_once() {
    let leader = Leader::start().await;
    let mut follower = leader.follow();
    leader.send(1, &[attached()]).await;
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    let keys = ["/a", "/b", "/c"];
    for round in 0..2000 {
        leader.send(1, &[terminated(keys[round % 3])]).await;
    }
    // All events have been processed when this one triggers a listing.
    leader.send(1, &[b"data: malformed\r\n\r\n".to_vec()]).await;
    let listed = async {
        while leader
            .server
            .lines()
            .iter()
            .filter(|line| *line == "GET /v2/pods/::status")
            .count()
            < 2
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, listed).await.unwrap();
    let mut changes = 0;
    loop {
        match next(&mut follower).await {
            Update::Changed(_) => changes += 1,
            Update::Snapshot(_) => break,
            Update::Lost(error) => panic!("{error}"),
        }
    }
    assert!(changes <= keys.len(), "{changes}");
}

#[tokio::test]
async fn follower_lists_without_event_stream() {
    let leader = Leader::start_with(|request, _| {
        (request.line() == "GET /v2/events").then(|| Reply::Answer(405, "wrong".to_owned()))
    })
    .await;
    let mut follower = leader.follow();
    for number in 0..2 {
        let problem = lost(&mut follower).await;
        assert!(
            matches!(problem, CallErrorKind::Refused { status: 405, .. }),
            "{problem:?}"
        );
        match next(&mut follower).await {
            Update::Snapshot(listing) => {
                assert!(!listing.followed);
                assert_eq!(listing.apps[0].id.as_str(), format!("/list-{number}"));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A standby redirects to the leader. Credentials are sent only to trusted addresses.
#[tokio::test]
async fn redirect_sends_credentials_to_trusted_servers_only() {
    let leader = Leader::start().await;
    let location: &'static str = format!("http://{}/v2/events?x", leader.server.address).leak();
    let standby = ScriptedServer::start(move |request, _| match request.line().as_str() {
        "GET /v2/events" => Reply::WithHeader(302, "location", location),
        _ => Reply::Answer(502, "Could not determine the current leader".to_owned()),
    })
    .await;
    let credentials = Credentials::Basic {
        user: "u".to_owned(),
        password: "p".into(),
    };
    let mut access = options(&[&standby]);
    access.access.credentials = credentials;
    access.access.redirects = Redirects::Listed;
    let mut strict = Follower::start(MarathonClient::new(access.clone()).unwrap(), fast_options());
    let problem = lost(&mut strict).await;
    assert!(
        matches!(
            problem,
            CallErrorKind::Redirect(RedirectError::NotListed(_))
        ),
        "{problem:?}"
    );
    drop(strict);
    assert_eq!(leader.server.requests().len(), 0);

    // Listed or trusted: the follower uses the leader directly.
    for listed in [true, false] {
        let mut access = access.clone();
        if listed {
            access.servers.push(address(&leader.server));
        } else {
            access.access.redirects = Redirects::SameScheme;
        }
        let mut follower = Follower::start(MarathonClient::new(access).unwrap(), fast_options());
        leader.send(1, &[attached()]).await;
        snapshot(&mut follower).await;
        drop(follower);
        leader.send(0, &[]).await;
        let requests = leader.server.requests();
        assert!(
            requests
                .iter()
                .all(|request| request.header("authorization") == Some("Basic dTpw"))
        );
        let closed = async {
            while leader.feed.receiver_count() > 0 {
                let _ = leader.feed.send(vec![]);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, closed).await.unwrap();
    }
}
