//! Several servers, leadership and faults.

use reqwest::Response;
use reqwest::header::LOCATION;

use super::*;
use crate::harness::{Effect, Fault};

async fn three(http_credentials: Option<HttpCredentials>) -> Fixture {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Fixture::with(Options {
        standbys: vec![any, any],
        leader_checks: (2, Duration::from_millis(1)),
        http_credentials,
        ..Options::default()
    })
    .await
}

impl Fixture {
    fn at(&self, server: usize) -> String {
        format!("http://{}", self.marathon.handle().servers()[server])
    }

    async fn get_at(&self, server: usize, path: &str) -> reqwest::Result<Response> {
        let request = client().get(format!("{}{path}", self.at(server)));
        request.header("Accept", "text/event-stream").send().await
    }

    async fn subscribed(&self, times: usize) {
        while self.master.lock().unwrap().calls("SUBSCRIBE") < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn standby_redirects_event_requests_and_forwards_others() {
    let fixture = three(None).await;
    let standby = fixture.at(1).replace("http://", "");
    let path = "/v2/events?event_type=a&event_type=b";
    let answer = fixture.get_at(1, path).await.unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(
        answer.headers()[LOCATION],
        format!("{}{path}", fixture.at(0))
    );

    let request = client()
        .post(format!("{}/v2/apps", fixture.at(1)))
        .header("X-Forwarded-For", "192.0.2.1")
        .body(json!({"id": "/a", "cmd": "run"}).to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["x-marathon-leader"], fixture.at(0));
    assert_eq!(answer.headers()["x-marathon-via"], format!("1.1 {standby}"));
    let log = fixture.marathon.handle().log(0);
    let passed = log.iter().find(|entry| entry.method == "POST").unwrap();
    assert_eq!((passed.status, passed.performed), (Some(201), true));
    assert_eq!(passed.body.as_ref().unwrap()["id"], "/a");

    let looped = client()
        .get(format!("{}/ping", fixture.at(1)))
        .header("X-Marathon-Via", format!("1.1 {standby}"));
    assert_eq!(looped.send().await.unwrap().status(), 502);
    fixture.marathon.handle().unplug(0);
    // The listener closes a moment later.
    while !fixture.get_at(0, "/ping").await.unwrap_err().is_connect() {}
    assert_eq!(fixture.get_at(1, "/ping").await.unwrap().status(), 502);
    fixture.marathon.handle().plug(0).await.unwrap();
    assert_eq!(fixture.get_at(1, "/v2/apps/a").await.unwrap().status(), 200);
}

#[tokio::test]
async fn new_leader_ends_streams_and_takes_over_the_framework() {
    let fixture = three(None).await;
    let handle = fixture.marathon.handle();
    fixture.subscribed(1).await;
    let stream = fixture.get_at(0, "/v2/events").await.unwrap();
    assert_eq!(handle.streams(), 1);
    handle.set_leader(None);
    let text = stream.text().await.unwrap();
    assert!(text.contains("event_stream_attached"), "{text}");
    for path in ["/ping", "/v2/events", "/v2/leader"] {
        let answer = fixture.get_at(0, path).await.unwrap();
        assert_eq!(answer.status(), 502, "{path}");
        let text = answer.text().await.unwrap();
        assert_eq!(text, "Could not determine the current leader");
    }
    handle.set_leader(Some(2));
    let mut stream = fixture.get_at(2, "/v2/events").await.unwrap();
    let mut text = String::new();
    while !text.contains("scheduler_registered_event") {
        let part = stream.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&part).unwrap());
    }
    assert!(
        text.contains(r#"{"frameworkId":"F1","master":"127.0.0.1","#),
        "{text}"
    );
    let leader = fixture.get_at(0, "/v2/leader").await.unwrap();
    let leader: Value = leader.json().await.unwrap();
    assert_eq!(leader["leader"], fixture.at(2).replace("http://", ""));
    let master = fixture.master.lock().unwrap();
    let mut calls = master.calls.iter();
    let again = calls.rfind(|call| call["type"] == "SUBSCRIBE").unwrap();
    assert_eq!(again["framework_id"]["value"], "F1");
}

#[tokio::test]
async fn every_server_requires_credentials() {
    let credentials = HttpCredentials::parse("user:a password");
    assert_eq!(format!("{credentials:?}"), "Some(HttpCredentials)");
    let fixture = three(credentials).await;
    for server in 0..3 {
        for path in ["/ping", "/v2/apps", "/v2/events"] {
            let answer = fixture.get_at(server, path).await.unwrap();
            assert_eq!(answer.status(), 401, "{path}");
            let challenge = &answer.headers()["www-authenticate"];
            assert_eq!(challenge, "Basic realm=\"Mesosphere\"");
        }
        let request = client()
            .get(format!("{}/v2/apps", fixture.at(server)))
            .basic_auth("user", Some("a password"));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn faults_apply_to_their_server_only() {
    let fixture = three(None).await;
    for id in ["/a", "/b", "/c"] {
        let app = json!({"id": id, "cmd": "run"});
        fixture.ask(Method::POST, "/v2/apps", app).await;
    }
    let handle = fixture.marathon.handle();
    let apps = async |server| {
        let answer = fixture.get_at(server, "/v2/apps").await.unwrap();
        let value: Value = answer.json().await.unwrap();
        value["apps"].as_array().unwrap().len()
    };
    handle.fault(Some(0), Fault::new(Effect::HalfList).times(0, 2));
    assert_eq!(apps(0).await, 1);
    assert_eq!(apps(1).await, 1, "the standby passes on what it gets");
    assert_eq!(apps(0).await, 3);
    handle.fault(None, Fault::new(Effect::EmptyList).times(0, 1));
    assert_eq!(apps(2).await, 0);
    assert_eq!(apps(2).await, 3);
    let html = "<html>sorry</html>".to_owned();
    handle.fault(None, Fault::new(Effect::Status(500, html.clone())));
    let answer = fixture.get_at(1, "/v2/apps").await.unwrap();
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.text().await.unwrap(), html);
    handle.clear_faults();
    handle.fault(None, Fault::new(Effect::Cut));
    assert!(fixture.get_at(0, "/ping").await.is_err());
}

#[tokio::test]
async fn control_listener_shows_and_sets_the_same_state() {
    let fixture = three(None).await;
    let handle = fixture.marathon.handle();
    let control = handle.control(([127, 0, 0, 1], 0).into()).await.unwrap();
    let url = |path: &str| format!("http://{control}{path}");
    let send = async |method: Method, path: &str, body: Value| {
        let request = client().request(method, url(path)).json(&body);
        request.send().await.unwrap().status().as_u16()
    };
    let get = async |path: &str| -> Value {
        let answer = client().get(url(path)).send().await.unwrap();
        answer.json().await.unwrap()
    };
    assert_eq!(get("/servers").await[0]["leads"], true);
    assert_eq!(send(Method::PUT, "/leader", json!(7)).await, 400);
    assert_eq!(send(Method::PUT, "/leader", json!(1)).await, 200);
    assert_eq!((handle.leader(), get("/leader").await), (Some(1), json!(1)));
    send(Method::PUT, "/leader", Value::Null).await;
    assert_eq!(handle.leader(), None);
    send(Method::PUT, "/servers/2/online", json!(false)).await;
    assert_eq!(get("/servers").await[2]["online"], false);
    send(Method::PUT, "/servers/2/online", json!(true)).await;
    assert!(handle.is_plugged(2));
    let fault = json!({"server": 1, "path": "/v2", "effect": "half-list"});
    assert_eq!(send(Method::POST, "/faults", fault).await, 200);
    assert_eq!(get("/faults").await[0]["server"], 1);
    assert_eq!(handle.faults()[0].1.effect, Effect::HalfList);
    let fault = json!({"event_type": "x", "times": 1, "effect": {"delay": 5}});
    assert_eq!(send(Method::POST, "/event-faults", fault).await, 200);
    assert_eq!(get("/event-faults").await[0]["effect"]["delay"], 5);
    for path in ["/faults", "/event-faults", "/streams"] {
        assert_eq!(send(Method::DELETE, path, Value::Null).await, 200);
    }
    assert_eq!(get("/event-faults").await, json!([]));
    assert_eq!(get("/streams").await, json!({"streams": 0, "lost": 0}));
    assert_eq!(get("/tasks").await, json!({}));
    fixture.get_at(0, "/ping").await.unwrap();
    assert_eq!(get("/servers/0/log").await[0]["path"], "/ping");
}
