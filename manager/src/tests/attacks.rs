//! Peers that hold connections, send nothing, send slowly or send too much: who asks properly is
//! served meanwhile.

use std::net::SocketAddr;

use hyper::{Method, StatusCode};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::http::{Agent, Authority, start};
use super::*;
use contrail_mesos_api::http::TlsOptions;
use contrail_mesos_api::program::raise_open_files_limit;

const TOKEN: &str = "correct-horse-battery";
/// Bounds every wait. It is not a limit that a test asserts.
const TEST_TIMEOUT: Duration = Duration::from_mins(2);

fn limits(total: usize, per_address: usize) -> Connections {
    Connections {
        total,
        per_address,
        ..Connections::default()
    }
}

/// A connection from another address of this machine.
async fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

async fn connect_many(count: usize, source: [u8; 4], address: SocketAddr) -> Vec<TcpStream> {
    let mut streams = vec![];
    for _ in 0..count {
        streams.push(connect_from(source, address).await);
    }
    streams
}

/// Reads until the manager closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = vec![];
    let read = stream.read_to_end(&mut text);
    // A reset is an end too.
    let _ = tokio::time::timeout(TEST_TIMEOUT, read)
        .await
        .expect("the manager keeps the connection");
    String::from_utf8(text).unwrap()
}

/// Reads the head of one response.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        let byte = tokio::time::timeout(TEST_TIMEOUT, stream.read_u8());
        let byte = byte.await.expect("no response").expect(&text);
        text.push(char::from(byte));
    }
    text
}

/// Waits until the metrics contain this text.
async fn wait_for_metric(manager: &Manager, text: &str) {
    let url = format!("http://{}/metrics", manager.admin_address().unwrap());
    let wait = async {
        loop {
            let metrics = reqwest::get(&url).await.unwrap().text().await.unwrap();
            if metrics.contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(TEST_TIMEOUT, wait).await;
    waited.unwrap_or_else(|_| panic!("no {text} in the metrics"));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_lock_nobody_out() {
    raise_open_files_limit();
    let fixture = Fixture::with(|config| {
        config.connections = limits(128, 64);
        config.admin_listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let manager = start(&fixture).await;
    // From the agents' own address, and from others.
    let mut idle = vec![];
    for last in 1..=4 {
        idle.extend(connect_many(300, [127, 0, 0, last], manager.address()).await);
        for number in 0..3 {
            let agent = Agent::new(&manager, "node1");
            let (vm, request) = plain(u128::from(last) * 10 + number);
            assert_eq!(agent.put(vm, &request).await.status, StatusCode::OK);
        }
    }
    wait_for_metric(
        &manager,
        "connections_closed_total{api=\"agents\",reason=\"made_room\"}",
    )
    .await;
    // The descriptors of those that were closed are free.
    wait_for_metric(&manager, "connections{api=\"agents\"}").await;
    drop(idle);
    wait_for_metric(&manager, "connections{api=\"agents\"} 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_in_progress_is_never_interrupted() {
    raise_open_files_limit();
    let fixture = Fixture::with(|config| config.connections = limits(32, 16)).await;
    let manager = start(&fixture).await;
    fixture.server.set_delay(Duration::from_millis(100));
    let agent = Agent::new(&manager, "node1");
    let (vm, request) = plain(1);
    let asking = tokio::spawn(async move { agent.put(vm, &request).await.status });
    while fixture.added("virtual-machine") < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _idle = connect_many(200, [127, 0, 0, 1], manager.address()).await;
    assert_eq!(asking.await.unwrap(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_tls_connections_keep_no_certificate_waiting() {
    raise_open_files_limit();
    let authority = Authority::new();
    let fixture = Fixture::with(|config| {
        config.access.tls = Some(Tls {
            identity: authority.identity("manager", &["localhost"]),
            client_ca: Some(authority.ca()),
        });
    })
    .await;
    let manager = start(&fixture).await;
    let silent = connect_many(900, [127, 0, 0, 1], manager.address()).await;
    let tls = TlsOptions {
        ca: Some(authority.ca()),
        identity: Some(authority.identity("node1", &[])),
    };
    for _ in 0..5 {
        // Each has a connection of its own, whose handshake has five seconds.
        let agent = Agent::with_tls(&manager, "node1", &tls);
        let response = agent.get("/v1/ports?agent=node1").await;
        assert_eq!(response.status, StatusCode::OK);
    }
    // The handshake has a time limit.
    let mut last = silent.into_iter().last().unwrap();
    assert_eq!(read_to_end(&mut last).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn body_without_token_is_not_read() {
    let fixture =
        Fixture::with(|config| config.access.tokens = vec![SecretString::from(TOKEN)]).await;
    let manager = start(&fixture).await;
    let (vm, _) = plain(1);
    let mut connections = vec![];
    for token in ["", "Authorization: Bearer wrong-horse-battery\r\n"] {
        // Fewer than one address may have.
        for _ in 0..100 {
            let mut stream = connect_from([127, 0, 0, 1], manager.address()).await;
            let head = format!(
                "PUT /v1/ports/{vm} HTTP/1.1\r\nHost: m\r\nX-Contrail-Mesos-Agent: node1\r\n\
                 {token}Content-Length: 254000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            connections.push(stream);
        }
    }
    // The response comes although no byte of the body was sent.
    for stream in &mut connections {
        let response = read_head(stream).await;
        assert!(response.starts_with("HTTP/1.1 401 "), "{response}");
    }
    // A short body that comes at once does not break the connection: the token may be renewed.
    let mut agent = Agent::new(&manager, "node1");
    agent.set_token("Bearer wrong-horse-battery");
    let (vm, request) = plain(1);
    for _ in 0..20 {
        assert_eq!(
            agent.put(vm, &request).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    agent.set_token(&format!("Bearer {TOKEN}"));
    assert_eq!(agent.put(vm, &request).await.status, StatusCode::OK);
    // A body that is too long is not read either.
    let mut stream = connect_from([127, 0, 0, 1], manager.address()).await;
    let head = format!(
        "PUT /v1/ports/{vm} HTTP/1.1\r\nHost: m\r\nX-Contrail-Mesos-Agent: node1\r\n\
         Authorization: Bearer {TOKEN}\r\nContent-Length: 300000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let response = read_head(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_that_does_not_send_its_request_is_disconnected() {
    let fixture = Fixture::with(|config| {
        config.connections.idle_timeout = Duration::from_secs(1);
        config.connections.body_timeout = Duration::from_secs(1);
        config.admin_listen = Some(([127, 0, 0, 1], 0).into());
        config.legacy_listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let manager = start(&fixture).await;
    let agents = manager.address();
    let legacy = manager.legacy_address().unwrap();
    let admin = manager.admin_address().unwrap();
    for (api, address, path) in [
        ("agents", agents, "PUT /v1/ports/x"),
        ("legacy", legacy, "POST /add_cni_info"),
        ("admin", admin, "PUT /log-level"),
    ] {
        let head =
            format!("{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Contrail-Mesos-Agent: node1\r\n");
        for beginning in ["", &head] {
            let mut stream = connect_from([127, 0, 0, 1], address).await;
            stream.write_all(beginning.as_bytes()).await.unwrap();
            assert_eq!(read_to_end(&mut stream).await, "", "{api} {beginning:?}");
        }
        let mut stream = connect_from([127, 0, 0, 1], address).await;
        let request = format!("{head}Content-Length: 100\r\n\r\npart");
        stream.write_all(request.as_bytes()).await.unwrap();
        let response = read_to_end(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 408 "), "{api}: {response}");
        // A connection that was used and is idle ends as well.
        let mut stream = connect_from([127, 0, 0, 1], address).await;
        let request =
            "GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Contrail-Mesos-Agent: node1\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let response = read_to_end(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 404 "), "{api}: {response}");
        for reason in ["idle_timeout", "body_timeout"] {
            let metric = format!("connections_closed_total{{api=\"{api}\",reason=\"{reason}\"}}");
            wait_for_metric(&manager, &metric).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_head_is_refused() {
    let fixture = Fixture::new().await;
    let manager = start(&fixture).await;
    let mut stream = connect_from([127, 0, 0, 1], manager.address()).await;
    let header = format!("X-Long: {}\r\n", "x".repeat(4000));
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    for _ in 0..100 {
        if stream.write_all(header.as_bytes()).await.is_err() {
            break;
        }
    }
    let response = read_to_end(&mut stream).await;
    assert!(
        response.is_empty() || response.starts_with("HTTP/1.1 431 "),
        "{response}"
    );
    let agent = Agent::new(&manager, "node1");
    let response = agent.send(Method::GET, "/v1/ports?agent=node1", "").await;
    assert_eq!(response.status, StatusCode::OK);
}
