//! The control listener, over HTTP.

use serde_json::{Value, json};

use super::Event;
use crate::vnc::{Handle, Options, Server};

const ANYWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

async fn start(options: Options) -> (Handle, String) {
    let (_, handle) = Server::start(options).await.unwrap();
    let control = handle.control(ANYWHERE.into()).await.unwrap();
    (handle, format!("http://{control}"))
}

async fn create(handle: &Handle, kind: &str, body: Value) -> reqwest::Result<Value> {
    let url = format!("{}/{kind}s", handle.url());
    let request = reqwest::Client::new()
        .post(url)
        .json(&json!({ kind: body }));
    request.send().await?.error_for_status()?.json().await
}

async fn get(url: String) -> Value {
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

/// The lines of an endless response.
struct Lines {
    answer: reqwest::Response,
    read: Vec<u8>,
}

impl Lines {
    async fn follow(control: &str, kinds: &str) -> Self {
        let answer = reqwest::get(format!("{control}/follow?kinds={kinds}")).await;
        Self {
            answer: answer.unwrap().error_for_status().unwrap(),
            read: vec![],
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.read
                .extend_from_slice(&self.answer.chunk().await.unwrap()?);
        }
    }
}

#[tokio::test]
async fn follow_sends_the_objects_and_then_the_changes() {
    let (handle, control) = start(Options::default()).await;
    let before = json!({"fq_name": ["before"]});
    create(&handle, "virtual-machine", before).await.unwrap();
    let mut lines = Lines::follow(&control, "virtual-machine").await;
    let Some(Event::Object { kind, object }) = lines.next().await else {
        panic!("the object that was there");
    };
    assert_eq!(
        (kind.as_str(), &object["fq_name"]),
        ("virtual-machine", &json!(["before"]))
    );
    assert_eq!(lines.next().await, Some(Event::Listed));
    // Not of a followed type.
    create(&handle, "domain", json!({"fq_name": ["d"]}))
        .await
        .unwrap();
    let made = create(&handle, "virtual-machine", json!({"fq_name": ["after"]}))
        .await
        .unwrap();
    let Some(Event::Object { object, .. }) = lines.next().await else {
        panic!("the new object");
    };
    assert_eq!(object["fq_name"], json!(["after"]));
    let uuid = made["virtual-machine"]["uuid"].as_str().unwrap();
    let url = format!("{}/virtual-machine/{uuid}", handle.url());
    reqwest::Client::new().delete(url).send().await.unwrap();
    let gone = Event::Gone {
        kind: "virtual-machine".to_owned(),
        uuid: uuid.parse().unwrap(),
    };
    assert_eq!(lines.next().await, Some(gone));
    let unknown = reqwest::get(format!("{control}/follow?kinds=virtual-mashine")).await;
    assert_eq!(unknown.unwrap().status(), 400);
}

#[tokio::test]
async fn follower_that_falls_behind_has_to_list_again() {
    let (handle, control) = start(Options {
        backlog: 1,
        ..Options::default()
    })
    .await;
    let mut lines = Lines::follow(&control, "virtual-network").await;
    while lines.next().await != Some(Event::Listed) {}
    // Creating a network also creates a routing-instance: two changes at once.
    let network = json!({
        "fq_name": ["default-domain", "default-project", "n"], "parent_type": "project",
    });
    create(&handle, "virtual-network", network).await.unwrap();
    assert_eq!(lines.next().await, Some(Event::ListAgain));
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn control_listener_shows_state_and_sets_faults() {
    let (handle, control) = start(Options::default()).await;
    let before = get(format!("{control}/objects")).await;
    create(&handle, "virtual-machine", json!({"fq_name": ["one"]}))
        .await
        .unwrap();
    let objects = get(format!("{control}/objects?kinds=virtual-machine")).await;
    assert_eq!(objects["virtual-machine"][0]["fq_name"], json!(["one"]));
    assert_ne!(get(format!("{control}/objects")).await, before);
    assert_eq!(get(format!("{control}/counts")).await["virtual-machine"], 1);
    assert_eq!(
        get(format!("{control}/log")).await[0]["path"],
        "/virtual-machines"
    );
    assert_eq!(get(format!("{control}/addresses")).await, json!([]));

    let http = reqwest::Client::new();
    let fault = json!({"method": "POST", "times": 1, "effect": {"status": [503, "busy"]}});
    let url = format!("{control}/faults");
    http.post(&url)
        .json(&fault)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    assert_eq!(
        get(url.clone()).await[0]["effect"],
        json!({"status": [503, "busy"]})
    );
    let refused = create(&handle, "virtual-machine", json!({"fq_name": ["two"]})).await;
    assert_eq!(refused.unwrap_err().status().unwrap(), 503);
    http.delete(&url).send().await.unwrap();
    assert_eq!(get(url).await, json!([]));

    let url = format!("{control}/delay");
    let delay = json!({"milliseconds": 3});
    http.put(&url)
        .json(&delay)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    assert_eq!(get(url).await, delay);
    http.put(format!("{control}/online"))
        .json(&false)
        .send()
        .await
        .unwrap();
    assert!(
        create(&handle, "virtual-machine", json!({"fq_name": ["three"]}))
            .await
            .is_err()
    );
    http.put(format!("{control}/online"))
        .json(&true)
        .send()
        .await
        .unwrap();
    create(&handle, "virtual-machine", json!({"fq_name": ["three"]}))
        .await
        .unwrap();
}
