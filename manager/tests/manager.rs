//! The binary `contrail-mesos-manager`, as an operator runs it.
#![expect(
    clippy::disallowed_methods,
    reason = "this is no agent: the binary under test is a child"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use contrail_mesos_api::agent_api::{self, AGENT_HEADER};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_manager::vnc::{
    FqName, Object as _, VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_sim::vnc::{Options, Server};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_contrail-mesos-manager");

/// The exit code of a check, and what it found.
fn check(config: &Path, options: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(BINARY)
        .args(options)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(text(output.stderr), "");
    (output.status.code(), text(output.stdout))
}

#[test]
fn check_reports_problems_of_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manager.toml.example");
    for command in [&["config", "check"][..], &["--check"]] {
        let (code, out) = check(&example, command);
        assert_eq!(
            (code, out),
            (Some(0), format!("{}: valid\n", example.display()))
        );
    }

    let command = ["config", "check"];
    let offline = ["config", "check", "--offline"];
    let wrong = directory.path().join("wrong.toml");
    std::fs::write(&wrong, "listn = 1\n[vnc]\nservers = []\n").unwrap();
    let (code, out) = check(&wrong, &command);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("problem: ")
            && out.contains("wrong.toml:1:1: listn: unknown key; did you mean \"listen\"?")
            && out.contains("wrong.toml:3:11: vnc.servers")
            && out.contains("2 problems in "),
        "{out}"
    );

    // A warning does not make it invalid.
    let token = directory.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o666)).unwrap();
    let text = format!("token_file = {token:?}\n[vnc]\nservers = [\"a\"]\n");
    std::fs::write(&wrong, text).unwrap();
    let (code, out) = check(&wrong, &command);
    assert!(
        code == Some(0) && out.contains("warning: ") && out.contains("0666"),
        "{out}"
    );
    assert_eq!(
        check(&wrong, &["config", "check", "--quiet"]),
        (Some(0), String::new())
    );

    std::fs::write(
        &wrong,
        "listen = \"127.0.0.1:0\"\n[vnc]\nservers = [\"a\"]\nca = \"/no\"\n[tls]\n\
         certificate = \"/no\"\nkey = \"/no\"\n[vnc.keystone]\nurl = \"keystone:35357\"\nuser = \"u\"\n\
         password_file = \"/no\"\n[overlay]\nfile = \"/no\"\n",
    )
    .unwrap();
    let (code, out) = check(&wrong, &command);
    assert_eq!(code, Some(1), "{out}");
    let places: Vec<_> = out
        .lines()
        .map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" "))
        .collect();
    let path = wrong.display();
    assert_eq!(
        places[..7],
        [
            format!("warning: {path}:1:10: listen:"),
            format!("problem: {path}:4:6: vnc.ca:"),
            format!("problem: {path}:6:15: tls.certificate:"),
            format!("problem: {path}:7:7: tls.key:"),
            format!("problem: {path}:9:7: vnc.keystone.url:"),
            format!("problem: {path}:11:17: vnc.keystone.password_file:"),
            "problem: /no: cannot".to_owned(),
        ],
        "{out}"
    );
    // What is on another host is noted. That the address has no scheme is wrong on every host.
    let (code, out) = check(&wrong, &offline);
    assert_eq!(code, Some(1), "{out}");
    assert_eq!(out.matches("problem: ").count(), 1, "{out}");
    assert_eq!(out.matches("note: ").count(), 5, "{out}");
    std::fs::write(
        &wrong,
        std::fs::read_to_string(&wrong)
            .unwrap()
            .replace("keystone:", "http://keystone:"),
    )
    .unwrap();
    let (code, out) = check(&wrong, &offline);
    assert_eq!(code, Some(0), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn manager_creates_a_container_and_stops() {
    let (_, server) = Server::start(Options::default()).await.unwrap();
    let client = VncClient::new(VncOptions::new(vec![
        server_address(&server.url()).unwrap(),
    ]))
    .unwrap();
    let router = FqName::new(["default-global-system-config", "node1"]);
    client.create(&VirtualRouter::named(router)).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("manager.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nlegacy_listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[vnc]\nservers = [\"{}\"]\n\
         [provision]\npod_task_subnets = [\"10.32.0.0/12\"]\n",
        server.url()
    );
    std::fs::write(&config, text).unwrap();
    let mut child = Command::new(BINARY)
        .arg("--config")
        .arg(&config)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut url = None;
    let mut admin = None;
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the manager ended");
        if let Some((_, address)) = line.split_once("listening for agents at ") {
            url = Some(address.trim().to_owned());
        }
        if let Some((_, address)) = line.split_once("admin listener at ") {
            admin = Some(address.trim().to_owned());
        }
    }
    let machine = agent_api::vm_uuid(&ContainerId::top_level("a"));
    let request = json!({"container": ["a"], "ports": [{"interface": "eth0", "network": "n"}]});
    let address = format!("{}/v1/ports/{machine}", url.unwrap());
    let http = reqwest::Client::new();
    let asked = http
        .put(&address)
        .header(AGENT_HEADER, "node1")
        .json(&request);
    let answer: Value = asked.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        answer["ports"][0]["addresses"][0]["address"], "10.47.255.252/12",
        "{answer}"
    );

    let admin = admin.unwrap();
    let ask = async |path: &str| {
        let answer = http.get(format!("{admin}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(ask("/live").await, (200, "live\n".to_owned()));
    assert_eq!(ask("/ready").await, (200, "leading\n".to_owned()));
    assert_eq!(ask("/leading").await, (200, "leading\n".to_owned()));
    assert_eq!(ask("/log-level").await, (200, "info\n".to_owned()));
    let (_, metrics) = ask("/metrics").await;
    for line in [
        "contrail_mesos_manager_containers_made_total 1",
        "contrail_mesos_manager_serving 1",
        "contrail_mesos_manager_term 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    assert_eq!(ask("/nothing").await.0, 404);

    let process = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
    let (status, rest) = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        (child.wait().unwrap(), rest)
    })
    .await
    .unwrap();
    assert!(status.success(), "{rest}");
    assert!(
        rest.contains("ports created: eth0 10.47.255.252/12") && rest.contains("stopping"),
        "{rest}"
    );
}
