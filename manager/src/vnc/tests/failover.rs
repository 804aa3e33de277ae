//! Servers that fail: which questions are asked again, and of whom.

use super::*;

#[tokio::test]
async fn a_dead_server_is_left_for_good() {
    let alive = ScriptedServer::start(|asked, _| made(asked)).await;
    let client = VncClient::new(options(&[nobody(), alive.address])).unwrap();
    for _ in 0..3 {
        client.create(&machine()).await.unwrap();
    }
    // One attempt at the dead one, not one for every call.
    assert_eq!(client.requests(), 4);
    assert_eq!(alive.requests().len(), 3);
}

#[tokio::test]
async fn one_server_serves_all_while_it_can() {
    let script = |asked: &contrail_mesos_api::http::scripted::ReceivedRequest, _| made(asked);
    let (first, second) = (
        ScriptedServer::start(script).await,
        ScriptedServer::start(script).await,
    );
    let client = VncClient::new(options(&[first.address, second.address])).unwrap();
    for _ in 0..4 {
        client.create(&machine()).await.unwrap();
    }
    assert_eq!((first.requests().len(), second.requests().len()), (4, 0));
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_known_again() {
    for lost in [Reply::Close, Reply::Truncate, Reply::Hang] {
        for said in [
            format!("['{VM}'] already exists with uuid: {VM}"),
            format!("{VM} already exists with fq_name: ['{VM}']"),
        ] {
            let lost = lost.clone();
            let server = ScriptedServer::start(move |asked, before| match before {
                0 => lost.clone(),
                1 => Reply::Answer(409, said.clone()),
                // The server is still at work on the first.
                2 => Reply::Answer(404, format!("Unknown id: {VM}")),
                _ => {
                    assert_eq!(asked.method, "GET");
                    ok(&serde_json::json!({ "virtual-machine": { "uuid": VM } }))
                }
            })
            .await;
            let mut options = options(&[server.address]);
            options.limits.request_timeout = Duration::from_secs(1);
            let client = VncClient::new(options).unwrap();
            assert_eq!(client.create(&machine()).await.unwrap(), uuid(VM));
            assert_eq!(server.requests().len(), 4);
        }
    }
}

#[tokio::test]
async fn a_create_without_a_uuid_is_repeated_with_the_same_one() {
    let server = ScriptedServer::start(|asked, before| match before {
        0 => Reply::Close,
        _ => made(asked),
    })
    .await;
    let project = Project::named("default-domain:p1".parse().unwrap());
    let made = client(&server).create(&project).await.unwrap();
    for asked in server.requests() {
        let body = asked.json();
        assert_eq!(body["project"]["uuid"], made.to_string());
        assert_eq!(body["project"]["parent_type"], "domain");
        assert_eq!(asked.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn what_was_there_before_is_not_taken_for_ours() {
    // The answer of another was lost, but the object has another uuid.
    let server = ScriptedServer::start(|_, before| match before {
        0 => Reply::Close,
        _ => Reply::Answer(409, format!("['{VM}'] already exists with uuid: {OTHER}")),
    })
    .await;
    let error = client(&server).create(&machine()).await.unwrap_err();
    assert!(matches!(error.kind, VncErrorKind::Exists { .. }), "{error}");

    // Nothing was lost, so it is not ours although it looks so.
    let server = ScriptedServer::start(|_, _| {
        Reply::Answer(409, format!("['{VM}'] already exists with uuid: {VM}"))
    })
    .await;
    let error = client(&server).create(&machine()).await.unwrap_err();
    assert!(matches!(error.kind, VncErrorKind::Exists { .. }), "{error}");
}

#[tokio::test]
async fn a_delete_whose_answer_was_lost_is_a_delete() {
    let server = ScriptedServer::start(|_, before| match before {
        0 => Reply::Close,
        _ => Reply::Answer(404, format!("ID {VM} does not exist")),
    })
    .await;
    let client = client(&server);
    assert!(client.delete::<VirtualMachine>(uuid(VM)).await.unwrap());
    assert!(!client.delete::<VirtualMachine>(uuid(VM)).await.unwrap());
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn refusals_and_failures_are_not_repeated() {
    for status in [400, 401, 403, 404, 409, 412, 413, 500] {
        let server =
            ScriptedServer::start(move |_, _| Reply::Answer(status, "no".to_owned())).await;
        client(&server).create(&machine()).await.unwrap_err();
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_now_is_asked_later() {
    for status in [502, 503] {
        let server = ScriptedServer::start(move |asked, before| match before {
            0..3 => Reply::Answer(status, "no ZooKeeper".to_owned()),
            _ => made(asked),
        })
        .await;
        client(&server).create(&machine()).await.unwrap();
        assert_eq!(server.requests().len(), 4);
    }
}

#[tokio::test]
async fn patience_ends() {
    let server = ScriptedServer::start(|_, _| Reply::Hang).await;
    let client = VncClient::new(VncOptions {
        call_timeout: Duration::from_millis(700),
        ..options(&[server.address])
    })
    .unwrap();
    let error = client.ping().await.unwrap_err();
    assert!(
        matches!(error.kind, VncErrorKind::Unknown { .. }),
        "{error}"
    );
    let client = VncClient::new(options(&[])).unwrap();
    assert!(
        client
            .ping()
            .await
            .unwrap_err()
            .to_string()
            .contains("no API server")
    );
}

#[tokio::test]
async fn nonsense_is_named_and_not_repeated() {
    for nonsense in [
        "",
        "null",
        "[]",
        "{}",
        "<html>",
        "{\"virtual-machine\": 1}",
        "{\"virtual-machine\": {\"uuid\": \"zz\"}}",
        "{\"virtual-machine\": {\"annotations\": 1}}",
    ] {
        let server = ScriptedServer::start(move |_, _| ok(&nonsense)).await;
        let error = client(&server)
            .read::<VirtualMachine>(uuid(VM))
            .await
            .expect_err(nonsense);
        assert!(
            matches!(error.kind, VncErrorKind::InvalidResponse { .. }),
            "{nonsense}: {error}"
        );
        let error = client(&server).create(&machine()).await.unwrap_err();
        assert!(
            matches!(error.kind, VncErrorKind::InvalidResponse { .. }),
            "{nonsense}: {error}"
        );
        let error = client(&server)
            .list::<VirtualMachine>(&Query::new())
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind, VncErrorKind::InvalidResponse { .. }),
            "{nonsense}: {error}"
        );
        assert_eq!(server.requests().len(), 3);
    }
}

#[tokio::test]
async fn calls_wait_their_turn() {
    let server = ScriptedServer::start(|asked, _| made(asked)).await;
    let client = VncClient::new(VncOptions {
        in_flight: 2,
        ..options(&[server.address])
    })
    .unwrap();
    let creates = (0..50).map(|index| {
        let client = client.clone();
        async move {
            let name = FqName::new([format!("vm-{index}")]);
            client.create(&VirtualMachine::named(name)).await
        }
    });
    for result in futures::future::join_all(creates).await {
        result.unwrap();
    }
    assert_eq!(server.requests().len(), 50);
}
