//! Tests with invalid responses.

use super::*;
use contrail_mesos_api::http::CallErrorKind;

fn id(text: &str) -> RunSpecId {
    RunSpecId::parse(text).unwrap()
}

#[tokio::test]
async fn invalid_response_is_error_and_not_empty_list() {
    let whole = json!({"apps": [app("/a"), app("/b")]}).to_string();
    for reply in [
        ok(&"<html><body>It works!</body></html>"),
        ok(&""),
        ok(&"{}"),
        ok(&"null"),
        ok(&r#"{"apps": null}"#),
        ok(&&whole[..whole.len() / 2]),
        Reply::Answer(500, r#"{"apps": []}"#.to_owned()),
        Reply::Answer(404, r#"{"apps": []}"#.to_owned()),
        Reply::Answer(401, r#"{"apps": []}"#.to_owned()),
        Reply::Answer(502, "Could not determine the current leader".to_owned()),
        Reply::Close,
        Reply::Truncate,
        Reply::Raw(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    ] {
        let description = format!("{reply:?}");
        let server = Leader::start_with(move |request, _| {
            (request.line() == "GET /v2/apps").then(|| reply.clone())
        })
        .await;
        let error = client(&[&server.server]).list().await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot list the apps at http://"),
            "{description}: {error}"
        );
    }
    let denied = ScriptedServer::start(|_, _| Reply::Answer(403, "no".to_owned())).await;
    let error = client(&[&denied]).list().await.unwrap_err();
    assert!(
        matches!(error.kind, CallErrorKind::Denied { status: 403, .. }),
        "{error}"
    );
    let error = client(&[]).list().await.unwrap_err();
    assert!(matches!(error.kind, CallErrorKind::Discovery(_)), "{error}");
}

#[tokio::test]
async fn list_tries_next_server() {
    let leader = Leader::start().await;
    for reply in [
        Reply::Answer(502, "Could not determine the current leader".to_owned()),
        Reply::Close,
        ok(&"<html>"),
    ] {
        let other = ScriptedServer::start(move |_, _| reply.clone()).await;
        let listing = client(&[&other, &leader.server]).list().await.unwrap();
        assert_eq!(listing.apps.len(), 1);
        assert!(!listing.followed);
        assert!(!other.requests().is_empty());
    }
}

#[tokio::test]
async fn only_not_found_of_marathon_means_deleted() {
    let gone = json!({"message": "App '/a' does not exist"}).to_string();
    for (reply, is_gone) in [
        (Reply::Answer(404, gone), true),
        (Reply::Answer(404, "<html>404</html>".to_owned()), false),
        (Reply::Answer(404, String::new()), false),
        (Reply::Answer(500, "{\"message\":\"x\"}".to_owned()), false),
    ] {
        let description = format!("{reply:?}");
        let server = ScriptedServer::start(move |_, _| reply.clone()).await;
        let client = client(&[&server]);
        let (app, pod) = (client.app(&id("/a")).await, client.pod(&id("/a/b")).await);
        if is_gone {
            assert_eq!((app.unwrap(), pod.unwrap()), (None, None));
        } else {
            app.expect_err(&description);
            pod.expect_err(&description);
        }
        assert_eq!(
            server.lines(),
            ["GET /v2/apps/a", "GET /v2/pods/a/b::status"]
        );
    }
}

#[tokio::test]
async fn single_app_with_invalid_task_is_error() {
    let server = ScriptedServer::start(|request, _| match request.line().as_str() {
        "GET /v2/apps/good" => ok(&json!({"app": {"id": "/good", "tasks": [{"id": "t"}]}})),
        "GET /v2/apps/bad" => ok(&json!({"app": {"id": "/bad", "tasks": [{"id": 1}]}})),
        "GET /v2/tasks" => ok(&json!({"tasks": [{"id": "t"}, null]})),
        "GET /v2/leader" => ok(&json!({"leader": "host:8080"})),
        _ => ok(&json!({})),
    })
    .await;
    let client = client(&[&server]);
    let good = client.app(&id("/good")).await.unwrap().unwrap();
    assert_eq!(&*good.tasks[0].id, "t");
    client.app(&id("/bad")).await.unwrap_err();
    client.pod(&id("/none")).await.unwrap_err();
    let (tasks, skipped) = client.tasks().await.unwrap();
    assert_eq!((tasks.len(), skipped), (1, 1));
    assert_eq!(client.leader().await.unwrap(), "host:8080");
}
