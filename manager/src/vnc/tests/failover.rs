//! Tests of retries and failover.

use contrail_mesos_api::http::scripted::ReceivedRequest;

use super::*;

#[tokio::test]
async fn failover_keeps_the_working_server() {
    let alive = ScriptedServer::start(|request, _| created_reply(request)).await;
    let client = VncClient::new(options(&[unused_address(), alive.address])).unwrap();
    for _ in 0..3 {
        client.create(&machine()).await.unwrap();
    }
    // One attempt at the unreachable server, not one per call.
    assert_eq!(client.requests(), 4);
    // Another test may probe this port, which it takes for unused.
    let is_creation = |request: &&ReceivedRequest| request.method == "POST";
    assert_eq!(alive.requests().iter().filter(is_creation).count(), 3);
}

#[tokio::test]
async fn working_server_receives_all_calls() {
    let script = |request: &ReceivedRequest, _| created_reply(request);
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
async fn create_with_lost_response_succeeds_on_retry() {
    for lost in [Reply::Close, Reply::Truncate, Reply::Hang] {
        for conflict in [
            format!("['{VM}'] already exists with uuid: {VM}"),
            format!("{VM} already exists with fq_name: ['{VM}']"),
        ] {
            let lost = lost.clone();
            let server = ScriptedServer::start(move |request, index| match index {
                0 => lost.clone(),
                1 => Reply::Answer(409, conflict.clone()),
                // The server is still processing the first attempt.
                2 => Reply::Answer(404, format!("Unknown id: {VM}")),
                _ => {
                    assert_eq!(request.method, "GET");
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
async fn create_retries_with_the_same_generated_uuid() {
    let server = ScriptedServer::start(|request, index| match index {
        0 => Reply::Close,
        _ => created_reply(request),
    })
    .await;
    let project = Project::named("default-domain:p1".parse().unwrap());
    let created = client(&server).create(&project).await.unwrap();
    for request in server.requests() {
        let body = request.json();
        assert_eq!(body["project"]["uuid"], created.to_string());
        assert_eq!(body["project"]["parent_type"], "domain");
        assert_eq!(request.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn create_existing_object_fails() {
    // A response was lost, but the existing object has another uuid.
    let server = ScriptedServer::start(|_, index| match index {
        0 => Reply::Close,
        _ => Reply::Answer(409, format!("['{VM}'] already exists with uuid: {OTHER}")),
    })
    .await;
    let error = client(&server).create(&machine()).await.unwrap_err();
    assert!(matches!(error.kind, VncErrorKind::Exists { .. }), "{error}");

    // No response was lost, so another client created the object with the same uuid.
    let server = ScriptedServer::start(|_, _| {
        Reply::Answer(409, format!("['{VM}'] already exists with uuid: {VM}"))
    })
    .await;
    let error = client(&server).create(&machine()).await.unwrap_err();
    assert!(matches!(error.kind, VncErrorKind::Exists { .. }), "{error}");
}

#[tokio::test]
async fn delete_with_lost_response_succeeds_on_retry() {
    let server = ScriptedServer::start(|_, index| match index {
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
async fn permanent_errors_are_not_retried() {
    for status in [400, 401, 403, 404, 409, 412, 413, 500] {
        let server =
            ScriptedServer::start(move |_, _| Reply::Answer(status, "no".to_owned())).await;
        client(&server).create(&machine()).await.unwrap_err();
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn unavailable_server_is_retried() {
    for status in [502, 503] {
        let server = ScriptedServer::start(move |request, index| match index {
            0..3 => Reply::Answer(status, "no ZooKeeper".to_owned()),
            _ => created_reply(request),
        })
        .await;
        client(&server).create(&machine()).await.unwrap();
        assert_eq!(server.requests().len(), 4);
    }
}

#[tokio::test]
async fn call_fails_after_call_timeout() {
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
async fn invalid_responses_are_not_retried() {
    for response in [
        "",
        "null",
        "[]",
        "{}",
        "<html>",
        "{\"virtual-machine\": 1}",
        "{\"virtual-machine\": {\"uuid\": \"zz\"}}",
        "{\"virtual-machine\": {\"annotations\": 1}}",
    ] {
        let server = ScriptedServer::start(move |_, _| ok(&response)).await;
        let error = client(&server)
            .read::<VirtualMachine>(uuid(VM))
            .await
            .expect_err(response);
        assert!(
            matches!(error.kind, VncErrorKind::InvalidResponse { .. }),
            "{response}: {error}"
        );
        let error = client(&server).create(&machine()).await.unwrap_err();
        assert!(
            matches!(error.kind, VncErrorKind::InvalidResponse { .. }),
            "{response}: {error}"
        );
        let error = client(&server)
            .list::<VirtualMachine>(&Query::new())
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind, VncErrorKind::InvalidResponse { .. }),
            "{response}: {error}"
        );
        assert_eq!(server.requests().len(), 3);
    }
}

#[tokio::test]
async fn calls_exceeding_in_flight_limit_wait() {
    let server = ScriptedServer::start(|request, _| created_reply(request)).await;
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
