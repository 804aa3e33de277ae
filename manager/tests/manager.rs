//! The binary `contrail-mesos-manager`, as an operator runs it.
#![expect(
    clippy::disallowed_methods,
    reason = "this is no agent: the binary under test is a child"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use contrail_mesos_api::agent_api::{self, AGENT_HEADER};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::scripted::{Reply, ScriptedServer, ok};
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
#[allow(clippy::too_many_lines, reason = "the life of one manager")]
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

    let archive = directory.path().join("dump.tar.gz");
    let printed = dump(
        &config,
        &archive,
        &["--admin", admin.trim_start_matches("http://")],
    );
    // Neither a source of Mesos and Marathon nor overlays.
    assert!(printed.contains("complete; look through it"), "{printed}");
    let files = unpack(&archive);
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).unwrap();
    assert_eq!(manifest["program"], "contrail-mesos-manager");
    assert_eq!(files["manager/ready.txt"], "leading\n");
    assert_eq!(files["manager/log-level.txt"], "info\n");
    assert!(files["manager/metrics.txt"].contains("contrail_mesos_manager_serving 1"));
    assert!(files["configuration/manager.toml"].contains("pod_task_subnets"));
    assert!(
        files["commands/check.txt"].contains("manager.toml: valid, 3 warnings\n"),
        "{files:?}"
    );
    let contrail: Value = serde_json::from_str(&files["manager/contrail.json"]).unwrap();
    assert!(contrail.is_object());
    // The running manager was given port 0.
    let probed = directory.path().join("probed.toml");
    let address = admin.strip_prefix("http://").unwrap();
    let text = format!("admin_listen = \"{address}\"\n[vnc]\nservers = [\"a\"]\n");
    std::fs::write(&probed, text).unwrap();
    let healthcheck = |more: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["healthcheck", "--config"]).arg(&probed);
        let output = command.args(more).output().unwrap();
        (output.status.success(), output.stdout)
    };
    assert_eq!(healthcheck(&[]), (true, b"leading\n".to_vec()));
    assert_eq!(healthcheck(&["--live"]), (true, b"live\n".to_vec()));

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
    assert_eq!(healthcheck(&["--live"]), (false, vec![]));
    assert!(
        rest.contains("ports created: eth0 10.47.255.252/12") && rest.contains("stopping"),
        "{rest}"
    );
}

/// What `dump` prints.
fn dump(config: &Path, archive: &Path, more: &[&str]) -> String {
    let output = Command::new(BINARY)
        .arg("dump")
        .arg("--config")
        .arg(config)
        .arg("--output")
        .arg(archive)
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{text}");
    let permissions = std::fs::metadata(archive).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o7777, 0o600);
    text
}

/// The files of an archive, by their names without the directory.
fn unpack(archive: &Path) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .arg("--extract")
        .arg("--strip-components=1")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(directory.path())
        .status();
    assert!(status.unwrap().success());
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.path().to_owned()];
    while let Some(path) = directories.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.strip_prefix(directory.path()).unwrap();
            let contents = std::fs::read_to_string(&path).unwrap();
            files.insert(name.display().to_string(), contents);
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_has_no_secret_of_the_manager() {
    let planted = |place: &str| format!("PLANTEDs3cret{place}");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path.display().to_string()
    };
    let token = file(
        "token",
        &format!("{}\n{}\n", planted("token1"), planted("token2")),
    );
    let password = file("password", &planted("password"));
    let key = file(
        "key.pem",
        &format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            planted("key")
        ),
    );
    let answer = json!({
        "url": format!("http://u:{}@marathon/", planted("url")),
        "tasks": [{"id": "shown-task", "labels": {"note": planted("label"), "VIP_0": "/shown-vip:80"},
            "env": {"DB": planted("env")}, "cmd": planted("command")}],
        "error": format!("the server repeated {} and {}", planted("token2"), planted("password")),
    });
    let server = ScriptedServer::start(move |request, _| match request.path.as_str() {
        "/metrics" => Reply::Answer(
            200,
            format!("# token={}\nshown_total 1\n", planted("metric")),
        ),
        "/v1/queue?limit=1000" => Reply::Answer(503, json!({"error": "shown-error"}).to_string()),
        "/v1/nodes?limit=1000" => Reply::Answer(200, "no json".to_owned()),
        _ => ok(&answer),
    })
    .await;
    let planted = |place: &str| format!("PLANTEDs3cret{place}");
    let toml = format!(
        "admin_listen = '{}'\ntoken_file = '{token}'\n# secret: {}\n[vnc]\nservers = ['http://127.0.0.1:9']\n\
         [vnc.basic]\nuser = 'shown-user'\npassword_file = '{password}'\n[tls]\nkey_file = '{key}'\n\
         password = '{}'\n",
        server.address,
        planted("comment"),
        planted("inline"),
    );
    let config = directory.path().join("manager.toml");
    std::fs::write(&config, toml).unwrap();
    let log = file(
        "log",
        &format!(
            "shown-line\nAuthorization: Basic {}\n{}\n",
            planted("basic"),
            planted("key")
        ),
    );
    let archive = directory.path().join("dump.tar.gz");
    let admin = server.address.to_string();
    let dumped = {
        let (config, archive) = (config.clone(), archive.clone());
        tokio::task::spawn_blocking(move || {
            dump(
                &config,
                &archive,
                &["--admin", &admin, "--log", &log, "--max-size", "4M"],
            )
        })
    };
    let printed = dumped.await.unwrap();
    assert!(!printed.contains("PLANTED"), "{printed}");
    let files = unpack(&archive);
    for (name, contents) in &files {
        assert!(!contents.contains("PLANTED"), "{name}: {contents}");
    }
    for (name, part) in [
        ("configuration/manager.toml", "shown-user"),
        ("configuration/manager.toml", "password = '(hidden)'"),
        ("configuration/manager.toml", &password),
        ("manager/marathon.json", "shown-task"),
        ("manager/marathon.json", "/shown-vip:80"),
        ("manager/marathon.json", "http://***@marathon/"),
        ("manager/metrics.txt", "shown_total 1"),
        ("manager/queue.json", "shown-error"),
        ("logs/given-0.txt", "shown-line"),
        ("manifest.json", "status 503"),
        ("manifest.json", "is no JSON"),
    ] {
        assert!(
            files[name].contains(part),
            "{part} is not in {name}: {}",
            files[name]
        );
    }
}
