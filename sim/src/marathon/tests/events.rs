//! The event stream, by bytes and by events.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::marathon::events::{Bus, Event, EventEffect, EventFault, EventStream};
use crate::marathon::version::Version;

const ATTACHED: &str = "event_stream_attached";

/// A stream, unparsed.
struct RawStream {
    socket: TcpStream,
    text: String,
}

impl RawStream {
    async fn open(address: SocketAddr, path: &str) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: m\r\nAccept: text/event-stream\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let text = String::new();
        Self { socket, text }
    }

    /// Everything up to and including `end`, or until the stream ends.
    async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.text.find(end) {
                let rest = self.text.split_off(at + end.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let mut bytes = [0; 4096];
            let count = self.socket.read(&mut bytes).await.unwrap();
            if count == 0 {
                return std::mem::take(&mut self.text);
            }
            self.text
                .push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }

    /// The next event.
    async fn event(&mut self) -> (String, Value) {
        let frame = self.until("\r\n\r\n").await;
        let frame = frame.trim_start_matches("\r\n");
        let (kind, data) = frame.split_once("\r\ndata: ").unwrap();
        let kind = kind.strip_prefix("event: ").unwrap().to_owned();
        (kind, serde_json::from_str(data).unwrap())
    }
}

fn fields(data: &Value) -> String {
    let fields = data.as_object().unwrap().keys();
    fields.map(String::as_str).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn stream_is_framed_as_by_jetty() {
    let fixture = Fixture::with(Options {
        heartbeat: Duration::from_millis(10),
        ..Options::default()
    })
    .await;
    let address = fixture.marathon.address();
    let mut stream = RawStream::open(address, "/v2/events?event_type=event_stream_attached").await;
    let head = stream.until("\r\n\r\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    for line in [
        "content-type: text/event-stream;charset=utf-8".to_owned(),
        "connection: close".to_owned(),
        format!("x-marathon-leader: http://{address}"),
    ] {
        assert!(head.contains(&format!("{line}\r\n")), "{line}: {head}");
    }
    assert!(!head.contains("transfer-encoding") && !head.contains("content-length"));
    let first = stream.until("\r\n\r\n").await;
    let start = "event: event_stream_attached\r\ndata: {\"remoteAddress\":\"127.0.0.1\",\
                 \"eventType\":\"event_stream_attached\",\"timestamp\":\"";
    assert!(first.starts_with(start), "{first}");
    assert!(first.ends_with("Z\"}\r\n\r\n"), "{first}");
    // Empty lines only.
    assert_eq!(stream.until("\r\n\r\n\r\n").await, "\r\n\r\n\r\n");
    fixture.marathon.handle().cut_streams();
    assert_eq!(stream.until("no end").await.replace("\r\n", ""), "");

    let strange = client()
        .get(format!("{}/v2/events", fixture.marathon.url()))
        .header("Accept", "text/event-stream, */*");
    assert_eq!(strange.send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn app_lifecycle_events_are_in_order() {
    let fixture = Fixture::start().await;
    let mut stream = RawStream::open(fixture.marathon.address(), "/v2/events").await;
    stream.until("\r\n\r\n").await;
    while stream.event().await.0 != ATTACHED {}
    let app = json!({"id": "/a", "cmd": "run", "cpus": 0.1});
    fixture.ask(Method::POST, "/v2/apps", app).await;
    fixture.settle().await;
    fixture.ask(Method::DELETE, "/v2/apps/a", Value::Null).await;
    fixture.settle().await;
    let mut told = Vec::new();
    loop {
        let (kind, data) = stream.event().await;
        assert_eq!(data["eventType"], kind.as_str());
        assert!(data["timestamp"].as_str().unwrap().ends_with('Z'));
        let last = kind == "deployment_success" && told.len() > 12;
        // Hostnames of the master differ between machines.
        if !kind.starts_with("scheduler_") {
            told.push((kind, data));
        }
        if last {
            break;
        }
    }
    let brief: Vec<String> = told
        .iter()
        .map(|(kind, data)| {
            let what = match kind.as_str() {
                "instance_changed_event" => &data["condition"],
                "status_update_event" => &data["taskStatus"],
                "deployment_info" => &data["currentStep"]["actions"][0]["action"],
                _ => &Value::Null,
            };
            format!("{kind} {}", what.as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(
        brief,
        [
            "deployment_info StartApplication",
            "deployment_step_success ",
            "deployment_info ScaleApplication",
            "instance_changed_event Scheduled",
            "api_post_event ",
            "instance_changed_event Provisioned",
            "instance_changed_event Running",
            "status_update_event TASK_RUNNING",
            "deployment_step_success ",
            "deployment_success ",
            "deployment_info StopApplication",
            // Its goal.
            "instance_changed_event Running",
            "instance_changed_event Killed",
            "status_update_event TASK_KILLED",
            "app_terminated_event ",
            "deployment_step_success ",
            "deployment_success ",
        ]
    );
    for (kind, expected) in [
        ("deployment_info", "plan currentStep eventType timestamp"),
        ("deployment_success", "id plan eventType timestamp"),
        ("app_terminated_event", "appId eventType timestamp"),
        (
            "api_post_event",
            "clientIp uri appDefinition eventType timestamp",
        ),
        (
            "instance_changed_event",
            "instanceId condition runSpecId agentId host runSpecVersion timestamp eventType",
        ),
        (
            "status_update_event",
            "slaveId taskId taskStatus message appId host ipAddresses ports version eventType \
             timestamp",
        ),
    ] {
        let (_, data) = told.iter().find(|(own, _)| own == kind).unwrap();
        assert_eq!(fields(data), expected, "{kind}");
    }
    let scheduled = &told[3].1;
    assert_eq!(scheduled["agentId"], Value::Null);
    let running = &told[7].1;
    assert_eq!(running["slaveId"], "S1");
    assert_eq!(
        running["ipAddresses"],
        json!([{"ipAddress": "9.0.1.3", "protocol": "IPv4"}])
    );
}

#[tokio::test]
async fn pod_events_omit_the_pod_and_depend_on_the_release() {
    let fixture = Fixture::with(Options {
        version: Version::V1_7,
        ..Options::default()
    })
    .await;
    let path = "/v2/events?event_type=event_stream_attached&event_type=pod_created_event\
                &event_type=instance_changed_event&event_type=pod_deleted_event";
    let mut stream = RawStream::open(fixture.marathon.address(), path).await;
    stream.until("\r\n\r\n").await;
    while stream.event().await.0 != ATTACHED {}
    let part = json!({"name": "c1", "resources": {"cpus": 0.1, "mem": 32},
                      "exec": {"command": {"shell": "run"}}});
    let pod = json!({"id": "/p", "containers": [part]});
    fixture.ask(Method::POST, "/v2/pods", pod).await;
    let (kind, data) = stream.event().await;
    assert_eq!(kind, "pod_created_event");
    assert_eq!(fields(&data), "clientIp uri eventType timestamp");
    assert_eq!(data["uri"], "/v2/pods");
    let (_, created) = stream.event().await;
    assert_eq!(created["condition"], "Created");
    assert!(
        created["instanceId"]
            .as_str()
            .unwrap()
            .starts_with("p.instance-")
    );
    assert_eq!(stream.event().await.1["condition"], "Running");
    fixture.settle().await;
    fixture.ask(Method::DELETE, "/v2/pods/p", Value::Null).await;
    let (kind, data) = stream.event().await;
    assert_eq!(
        (kind.as_str(), &data["uri"]),
        ("pod_deleted_event", &json!("/v2/pods/p"))
    );
}

fn bus(version: Version, outstanding: usize) -> Arc<Bus> {
    Bus::new(version, outstanding, Duration::from_mins(1))
}

fn event(number: u32) -> Event {
    Event::new("x", json!({"number": number}))
}

fn attach(bus: &Bus) -> EventStream {
    bus.attach(0, "peer", BTreeSet::from(["x".to_owned()]))
}

/// The numbers of the received events, and whether the stream has ended.
fn come(stream: &mut EventStream) -> (Vec<u64>, bool) {
    let mut numbers = Vec::new();
    loop {
        match stream.next().now_or_never() {
            None => return (numbers, false),
            Some(None) => return (numbers, true),
            Some(Some(Ok(frame))) => {
                let frame = std::str::from_utf8(&frame).unwrap();
                let data = frame.split("data: ").nth(1).unwrap();
                let data: Value = serde_json::from_str(data).unwrap();
                numbers.push(data["number"].as_u64().unwrap());
            }
        }
    }
}

#[tokio::test]
async fn slow_consumer_loses_events_or_stream_by_release() {
    let old = bus(Version::V1_7, 2);
    let mut slow = attach(&old);
    for number in 1..=4 {
        old.publish(event(number));
    }
    assert_eq!(come(&mut slow), (vec![1, 2], false));
    old.publish(event(5));
    assert_eq!(come(&mut slow), (vec![5], false));
    assert_eq!((old.lost(), old.followers()), (2, 1));

    let new = bus(Version::V1_8, 2);
    let (mut slow, mut quick) = (attach(&new), attach(&new));
    for number in 1..=3 {
        new.publish(event(number));
        assert_eq!(come(&mut quick), (vec![u64::from(number)], false));
    }
    assert_eq!(come(&mut slow), (vec![], true));
    assert_eq!((new.lost(), new.followers()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn events_are_dropped_doubled_swapped_and_delayed() {
    let bus = bus(Version::V1_11, 100);
    let mut stream = attach(&bus);
    let late = EventEffect::Delay(Duration::from_secs(1));
    let faults = [
        EventEffect::Drop,
        EventEffect::Duplicate,
        EventEffect::Swap,
        late,
    ];
    for effect in faults {
        bus.fault(EventFault {
            times: Some(1),
            ..EventFault::new(effect)
        });
    }
    for number in 1..=6 {
        bus.publish(event(number));
    }
    assert_eq!(come(&mut stream), (vec![2, 2, 5, 3, 6], false));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(come(&mut stream), (vec![4], false));
    bus.fault(EventFault::new(EventEffect::Swap));
    bus.publish(event(7));
    assert_eq!(come(&mut stream), (vec![], false));
    bus.clear_faults();
    assert_eq!(come(&mut stream), (vec![7], false));
}

#[tokio::test(start_paused = true)]
async fn an_empty_line_is_flushed_between_its_two_bytes() {
    let bus = bus(Version::V1_11, 100);
    let mut stream = attach(&bus);
    assert_eq!(stream.next().await.unwrap().unwrap(), "\r");
    let flushed = poll_fn(|context| {
        let next = Pin::new(&mut stream).poll_next(context);
        Poll::Ready(next.is_pending())
    });
    assert!(flushed.await, "both bytes go out at once");
    assert_eq!(stream.next().await.unwrap().unwrap(), "\n");
    drop(stream);
    assert_eq!(bus.followers(), 0);
}
