//! The state machine, step by step.

use super::*;
use contrail_mesos_api::http::{CallErrorKind, Credentials, HttpError, RedirectError, Redirects};

#[tokio::test]
async fn attached_listed_followed() {
    let leader = Leader::start().await;
    let mut follower = leader.follow();
    // Not before it is attached.
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
    assert_eq!(touched(&mut follower).await, "/a");
    let asked = leader.server.requests();
    assert_eq!(asked[0].line(), "GET /v2/events");
    assert_eq!(asked[0].header("accept"), Some("text/event-stream"));
    assert!(
        asked[0].path.contains("event_type=event_stream_attached"),
        "{}",
        asked[0].path
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
async fn what_was_touched_during_a_list_comes_after_it() {
    let (go, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let leader = Leader::start_with(move |asked, before| {
        // The first list is old by the time that it arrives.
        if asked.line() == "GET /v2/pods/::status" && before == 0 {
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
    assert_eq!(touched(&mut follower).await, "/a");
    assert_eq!(touched(&mut follower).await, "/b");
    leader.send(1, &[terminated("/c")]).await;
    let mut next = touched(&mut follower).await;
    if next == "/a" {
        // The second word of it may come after the first was taken.
        next = touched(&mut follower).await;
    }
    assert_eq!(next, "/c");
}

#[tokio::test]
async fn odd_events_list_again_and_keep_the_stream() {
    let leader = Leader::start().await;
    let mut follower = leader.follow();
    leader.send(1, &[attached()]).await;
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    for (number, odd) in [
        event("status_update_event", &json!({"taskId": null})),
        b"event: app_terminated_event\r\ndata: {\"appId\": \r\n\r\n".to_vec(),
        b"data: <html>\r\n\r\n".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        leader.send(1, &[odd]).await;
        assert_eq!(
            snapshot(&mut follower).await,
            [format!("/list-{}", number + 1)]
        );
    }
    // Unknown ones do not.
    let unknown = event("a_newer_event", &json!({"x": null}));
    leader.send(1, &[unknown, terminated("/a")]).await;
    assert_eq!(touched(&mut follower).await, "/a");
    assert_eq!(leader.feed.receiver_count(), 1);
}

#[tokio::test]
async fn a_lost_stream_is_opened_again_and_everything_listed() {
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
        // The old connection ends on its own time: go on until the new one is attached.
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
async fn silence_is_loss_and_heartbeats_are_life() {
    let leader = Leader::start().await;
    let options = FollowOptions {
        idle_timeout: Duration::from_secs(2),
        ..quick()
    };
    let mut follower = Follower::start(client(&[&leader.server]), options);
    leader.send(1, &[attached()]).await;
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    // Longer than what may be silent, in halves as Jetty sends them.
    for half in [b"\r", b"\n"].iter().cycle().take(24) {
        leader.send(1, &[half.to_vec()]).await;
        tokio::time::sleep(Duration::from_millis(125)).await;
    }
    leader.send(1, &[terminated("/alive")]).await;
    assert_eq!(touched(&mut follower).await, "/alive");
    let problem = lost(&mut follower).await;
    assert!(
        matches!(problem, CallErrorKind::Http(HttpError::IdleTimeout(_))),
        "{problem:?}"
    );
}

#[tokio::test]
async fn a_slow_consumer_sees_each_key_once() {
    let leader = Leader::start().await;
    let mut follower = leader.follow();
    leader.send(1, &[attached()]).await;
    assert_eq!(snapshot(&mut follower).await, ["/list-0"]);
    let keys = ["/a", "/b", "/c"];
    for round in 0..2000 {
        leader.send(1, &[terminated(keys[round % 3])]).await;
    }
    // All of them have been read once this makes a list.
    leader.send(1, &[b"data: odd\r\n\r\n".to_vec()]).await;
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
    timeout(PATIENCE, listed).await.unwrap();
    let mut seen = 0;
    loop {
        match next(&mut follower).await {
            Update::Changed(_) => seen += 1,
            Update::Snapshot(_) => break,
            Update::Lost(error) => panic!("{error}"),
        }
    }
    assert!(seen <= keys.len(), "{seen}");
}

#[tokio::test]
async fn without_any_stream_there_are_lists() {
    let leader = Leader::start_with(|asked, _| {
        (asked.line() == "GET /v2/events").then(|| Reply::Answer(405, "wrong".to_owned()))
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

/// A standby sends events to the leader, and the token goes along or nobody does.
#[tokio::test]
async fn redirections_carry_credentials_to_whom_they_may() {
    let leader = Leader::start().await;
    let location: &'static str = format!("http://{}/v2/events?x", leader.server.address).leak();
    let standby = ScriptedServer::start(move |asked, _| match asked.line().as_str() {
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
    let mut strict = Follower::start(MarathonClient::new(access.clone()).unwrap(), quick());
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

    // Listed, or trusted: it goes, and what follows is asked of the leader itself.
    for listed in [true, false] {
        let mut access = access.clone();
        if listed {
            access.servers.push(address(&leader.server));
        } else {
            access.access.redirects = Redirects::SameScheme;
        }
        let mut follower = Follower::start(MarathonClient::new(access).unwrap(), quick());
        leader.send(1, &[attached()]).await;
        snapshot(&mut follower).await;
        drop(follower);
        leader.send(0, &[]).await;
        let asked = leader.server.requests();
        assert!(
            asked
                .iter()
                .all(|asked| asked.header("authorization") == Some("Basic dTpw"))
        );
        let closed = async {
            while leader.feed.receiver_count() > 0 {
                let _ = leader.feed.send(vec![]);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, closed).await.unwrap();
    }
}
