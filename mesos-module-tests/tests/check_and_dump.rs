//! `contrail-mesos check`, `detach --force` and `dump`, as an operator uses them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::scripted::{ScriptedServer, ok};
use mesos_module_tests::testbed::agent::{self, Agent, BLUE, container};
use mesos_module_tests::testbed::contrail::Contrail;
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::{Host, program};
use serde_json::{Value, json};

struct Operator<'a> {
    host: &'a Host,
    config: PathBuf,
}

impl Operator<'_> {
    /// Whether the command succeeded, what it printed, and what it said of errors.
    fn run(&self, arguments: &str) -> Result<(bool, String, String)> {
        let output = self
            .host
            .command(program("contrail-mesos")?)
            .arg("--config")
            .arg(&self.config)
            .args(arguments.split_whitespace())
            .output()?;
        let text = |bytes| String::from_utf8(bytes);
        Ok((
            output.status.success(),
            text(output.stdout)?,
            text(output.stderr)?,
        ))
    }

    fn succeeds(&self, arguments: &str) -> Result<String> {
        let (success, text, errors) = self.run(arguments)?;
        ensure!(success, "{arguments}: {text}{errors}");
        Ok(text)
    }

    /// What check reports as JSON.
    fn check(&self, arguments: &str) -> Result<(bool, Value)> {
        let (success, text, errors) = self.run(&format!("check -o json {arguments}"))?;
        let report = serde_json::from_str(&text).with_context(|| format!("{text}{errors}"))?;
        Ok((success, report))
    }
}

fn kinds(report: &Value) -> BTreeSet<&str> {
    let strays = report["strays"].as_array().into_iter().flatten();
    strays.filter_map(|stray| stray["kind"].as_str()).collect()
}

/// An agent that knows these containers.
fn agent_with(host: &Host, containers: &[&str]) -> String {
    let known: Vec<Value> = containers
        .iter()
        .map(|id| json!({"container_id": id, "status": {"container_id": {"value": id}}}))
        .collect();
    let server = host.block_on(ScriptedServer::start(move |request, _| {
        match request.path.split('?').next() {
            Some("/slave(1)/containers") => ok(&Value::Array(known.clone())),
            _ => ok(&json!({})),
        }
    }));
    let address = server.address.to_string();
    // It serves as long as the host exists.
    std::mem::forget(server);
    address
}

const NETWORKS: &str = "[[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'blue0'\nsubnet = '10.32.0.0/24'\n\
    [[network]]\nname = 'green'\nprovider = 'bridge'\nbridge = 'green0'\nsubnet = '10.34.0.0/24'\n\
    [[network]]\nname = 'closed'\nprovider = 'bridge'\nbridge = 'closed0'\nsubnet = '10.35.0.0/24'\ngroups = true\n";

#[test]
#[allow(clippy::too_many_lines, reason = "one stray of each kind")]
fn check_names_and_repairs_one_stray_of_every_kind() -> Result<()> {
    let mut agent = Agent::start(&format!("{NETWORKS}[ports]\nallow = ['30000-30010']\n"))?;
    let live = agent.run(TaskSpec::new("live", "sleep 1000").network("blue"))?;
    let live = container(&live)?;
    let host = agent.host().clone();
    let state = agent.state_dir();
    let operator = Operator {
        host: &host,
        config: agent.config_path(),
    };
    let ping = "ping -c 1 -W 5 10.32.0.2";
    host.sh(ping)?;
    let (clean, report) = operator.check(&format!("--agent {}:5050", host.address()))?;
    ensure!(clean, "{report:#}");
    ensure!(report["not_compared"] == json!([]), "{report:#}");

    // Containers that end while no agent runs, and whose checkpoints are lost or damaged.
    let mut dead = vec![];
    for (task, networks) in [
        ("dead", ["green", "closed"].as_slice()),
        ("damaged", &["blue"]),
        ("unknown", &["blue"]),
    ] {
        let mut spec = TaskSpec::new(task, "sleep 1000");
        for (index, network) in networks.iter().enumerate() {
            let mut info = json!({"name": network});
            if task == "dead" && index == 0 {
                info["port_mappings"] =
                    json!([{"host_port": 30_001, "container_port": 80, "protocol": "tcp"}]);
            }
            spec = spec.network_info(info);
        }
        dead.push(container(&agent.run(spec)?)?);
    }
    let before_rules = host.sh("nft list table inet contrail_mesos")?;
    agent.cluster.kill_9()?;
    for id in &dead {
        host.sh(&format!("ip netns pids {id} | xargs -r kill -9"))?;
    }
    let containers = state.join("containers");
    fs::remove_dir_all(containers.join(&dead[0]))?;
    fs::write(containers.join(&dead[1]).join("intent.json"), "{")?;
    // An interface without a checkpoint is still there for its namespace's sake, and one is alone.
    fs::remove_file(state.join("networks/blue/10.32.0.2"))?;
    let cni = state
        .join("cni")
        .join("55555555-aaaa-4bbb-8ccc-000000000005");
    fs::create_dir_all(&cni)?;
    fs::write(cni.join("eth0.json"), "{")?;
    let known = agent_with(&host, &[&live]);

    let (clean, report) = operator.check(&format!("--agent {known}"))?;
    ensure!(!clean, "{report:#}");
    let expected = BTreeSet::from([
        "interface",
        "bridge",
        "nftables-element",
        "routing-rules",
        "lease",
        "missing-lease",
        "cni-record",
        "namespace-handle",
        "etc-files",
        "damaged-checkpoint",
        "unknown-container",
    ]);
    assert_eq!(kinds(&report), expected, "{report:#}");
    let unknown = report["strays"].as_array().into_iter().flatten();
    let unknown: Vec<&Value> = unknown
        .filter(|stray| stray["kind"] == "unknown-container")
        .collect();
    ensure!(
        unknown.len() == 1 && unknown[0]["container"] == dead[2].as_str(),
        "{report:#}"
    );
    // The table names each, too.
    let (_, text, _) = operator.run(&format!("check --agent {known}"))?;
    for kind in &expected {
        ensure!(text.contains(&format!("{kind} ")), "{kind}: {text}");
    }

    let rules = host.sh("nft list table inet contrail_mesos")?;
    let (clean, dry) = operator.check(&format!("--repair --dry-run --agent {known}"))?;
    ensure!(!clean && dry["strays"] == report["strays"], "{dry:#}");
    assert_eq!(rules, host.sh("nft list table inet contrail_mesos")?);
    assert_eq!(rules, before_rules);

    // A record that cannot be read takes an operator, who gives it up.
    let (clean, repaired) = operator.check(&format!("--repair --agent {known}"))?;
    ensure!(!clean, "{repaired:#}");
    for stray in repaired["strays"].as_array().into_iter().flatten() {
        let is_record = stray["kind"] == "cni-record";
        let expected = if is_record { "left" } else { "repaired" };
        ensure!(stray["outcome"] == expected, "{repaired:#}");
    }
    let text = operator.succeeds("detach 55555555-aaaa-4bbb-8ccc-000000000005 --force")?;
    ensure!(text.contains("may be left by CNI plugins"), "{text}");
    let (clean, report) = operator.check(&format!("--agent {known}"))?;
    ensure!(clean, "{report:#}");
    host.sh(ping)?;
    host.sh("! ip link show green0 2>/dev/null && ip link show blue0 >/dev/null")?;
    ensure!(
        !host
            .sh("nft list table inet contrail_mesos")?
            .contains("30001")
    );

    // An agent that does not answer is named, and nothing is concluded.
    let (clean, report) = operator.check("--agent 127.0.0.1:9")?;
    ensure!(
        clean && report["not_compared"][0]["peer"] == "agent",
        "{report:#}"
    );
    agent.cluster.restart()?;
    drop(host);
    agent.end()
}

#[test]
fn check_compares_with_the_managers_and_a_teardown_is_given_up() -> Result<()> {
    let host = agent::host()?;
    let mut contrail = Contrail::start(&host)?;
    let vrouter = contrail.vrouter(&host, "node-1", None)?;
    let config = host.directory().join("agent.toml");
    let state = host.directory().join("state");
    let table = contrail.agent_config(&host, &vrouter)?;
    let table = table.replace("[[network]]", "deadline = '2s'\n[[network]]");
    fs::write(
        &config,
        format!("state_dir = '{}'\n{table}", state.display()),
    )?;
    let operator = Operator {
        host: &host,
        config: config.clone(),
    };
    host.sh("ip netns add live && ip netns add dead && ip netns add gone")?;
    let network = "contrail-cni-plugin";
    for name in ["live", "dead", "gone"] {
        operator.succeeds(&format!("attach {name} --netns {name} --network {network}"))?;
    }
    let (clean, report) = operator.check("")?;
    ensure!(clean, "{report:#}");

    // A host that lost its disk has objects and nothing else.
    let intent = state.join("containers/dead/intent.json");
    let named = |pattern: &str| {
        host.sh(&format!(
            "grep -o '{pattern}' {} | head -1",
            intent.display()
        ))
    };
    let interface = named("tap[0-9a-f]*")?;
    let machine = contrail_mesos_api::agent_api::vm_uuid(&ContainerId::top_level("dead"));
    host.sh(&format!("ip link delete {}", interface.trim()))?;
    fs::remove_dir_all(state.join("containers/dead"))?;
    fs::remove_dir_all(vrouter.port_files().join(machine.to_string()))?;
    let (clean, report) = operator.check("")?;
    ensure!(
        !clean && kinds(&report) == BTreeSet::from(["contrail-objects"]),
        "{report:#}"
    );
    ensure!(report["strays"][0]["container"] == "dead", "{report:#}");
    let (clean, report) = operator.check("--repair")?;
    ensure!(
        clean && report["strays"][0]["outcome"] == "repaired",
        "{report:#}"
    );

    // The peers of a teardown are gone for good.
    contrail.manager_mut().kill()?;
    let (_, report) = operator.check("")?;
    ensure!(
        report["not_compared"][0]["peer"] == "managers",
        "{report:#}"
    );
    let detach = |name: &str| operator.succeeds(&format!("detach {name} --force"));
    // At once: each waits for the managers.
    let (gone, live) = std::thread::scope(|scope| {
        let live = scope.spawn(|| detach("live"));
        (detach("gone"), live.join().expect("no panic"))
    });
    for text in [gone?, live?] {
        ensure!(
            text.contains("is pending") && text.contains("--force"),
            "{text}"
        );
    }
    let text = operator.succeeds("detach gone --force")?;
    ensure!(
        text.contains("gave up") && text.contains("may be left in Contrail"),
        "{text}"
    );
    ensure!(!operator.run("status")?.1.contains("pending teardown: gone"));

    // Nor does the configuration name them any more.
    let without = host.directory().join("without.toml");
    fs::write(&without, format!("state_dir = '{}'\n", state.display()))?;
    let other = Operator {
        host: &host,
        config: without,
    };
    let text = other.succeeds("detach live --force")?;
    ensure!(
        text.contains("no table [contrail]") && text.contains("virtual-machine"),
        "{text}"
    );
    ensure!(
        other
            .succeeds("detach live --force")?
            .contains("nothing to do")
    );
    host.sh("ip netns delete live && ip netns delete dead && ip netns delete gone")?;
    contrail.manager_mut().start()?;
    vrouter.stop()
}

#[test]
fn del_that_always_fails_is_given_up() -> Result<()> {
    let host = agent::host()?;
    let directory = host.directory().to_owned();
    let plugins = directory.join("plugins");
    let networks = directory.join("net.d");
    fs::create_dir_all(&plugins)?;
    fs::create_dir_all(&networks)?;
    let plugin = plugins.join("half");
    fs::write(
        &plugin,
        "#!/bin/sh\ncat >/dev/null\ncase $CNI_COMMAND in\n\
         ADD) nsenter --net=$CNI_NETNS ip link add $CNI_IFNAME type veth peer name half1\n\
         echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.99.0.7/24\"}]}' ;;\n\
         VERSION) echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}' ;;\n\
         *) echo '{\"code\":100,\"msg\":\"the store is gone\"}'; exit 1 ;;\nesac\n",
    )?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    fs::write(
        networks.join("half.conf"),
        r#"{"cniVersion": "1.0.0", "name": "half", "type": "half"}"#,
    )?;
    let config = directory.join("agent.toml");
    fs::write(
        &config,
        format!(
            "state_dir = '{0}/state'\n[cni]\nconfig_dir = '{0}/net.d'\nplugin_dirs = ['{0}/plugins']\n",
            directory.display()
        ),
    )?;
    let operator = Operator {
        host: &host,
        config,
    };
    host.sh("ip netns add box")?;
    operator.succeeds("attach box --netns box --network half")?;
    let text = operator.succeeds("detach box")?;
    ensure!(text.contains("by its CNI plugins is pending"), "{text}");
    // The plugin is missing, too.
    fs::remove_file(&plugin)?;
    ensure!(!operator.run("detach box")?.0);
    let (_, report) = operator.check("")?;
    assert_eq!(
        kinds(&report),
        BTreeSet::from(["pending-teardown"]),
        "{report:#}"
    );
    let text = operator.succeeds("detach box --force")?;
    for part in [
        "gave up",
        "half",
        "10.99.0.7/24",
        "may be left by its CNI plugins",
    ] {
        ensure!(text.contains(part), "{part}: {text}");
    }
    let (clean, report) = operator.check("")?;
    ensure!(clean, "{report:#}");
    ensure!(
        operator
            .succeeds("detach box --force")?
            .contains("nothing to do")
    );
    host.sh("ip netns delete box")?;
    Ok(())
}

/// What every planted secret begins with, in the alphabet of keys.
const PLANTED: &str = "PLANTEDs3cret";

/// A node daemon whose answers have secrets.
fn node_daemon(socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    let body = json!({
        "node": "n", "version": "0.1.0", "connection": {"problem": null}, "subsystems": [],
        "url": format!("https://user:{PLANTED}daemonurl@manager/"),
        "labels": {"note": format!("{PLANTED}daemonlabel")},
        "error": format!("sent Authorization: Bearer {PLANTED}daemonheader"),
    })
    .to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let head = BufReader::new(&stream).lines();
            // To the empty line.
            head.map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .count();
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    Ok(())
}

#[test]
#[allow(clippy::too_many_lines, reason = "one place of each kind")]
fn dump_has_no_secret_wherever_it_is_planted() -> Result<()> {
    let host = agent::host()?;
    let directory = host.directory().to_owned();
    let path = |name: &str| directory.join(name).display().to_string();
    let secret = |place: &str| format!("{PLANTED}{place}");
    fs::write(path("token"), format!("{}\n", secret("token")))?;
    fs::write(
        path("agent.key"),
        format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            secret("key")
        ),
    )?;
    fs::create_dir_all(path("net.d"))?;
    fs::write(
        path("net.d/other.conf"),
        json!({
            "cniVersion": "1.0.0", "name": "other", "type": "other-plugin",
            "endpoint": secret("cniendpoint"), "apiToken": secret("cnitoken"),
        })
        .to_string(),
    )?;
    fs::create_dir_all(path("plugins"))?;
    let config = format!(
        "# password = '{}'\n[cni]\nconfig_dir = '{}'\nplugin_dirs = ['{}']\n\
         [node]\nmanagers = ['http://192.0.2.1:9']\ntoken_file = '{}'\n{BLUE}",
        secret("comment"),
        path("net.d"),
        path("plugins"),
        path("token"),
    );
    let environment = json!({"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "NOTE": secret("flagenv")});
    let docker = json!({"auths": {"registry": {"auth": secret("docker")}}});
    let agent = Agent::start_on(host.clone(), &config, |cluster| {
        cluster
            .env(
                "MESOS_EXECUTOR_ENVIRONMENT_VARIABLES",
                &environment.to_string(),
            )
            .env("MESOS_DOCKER_CONFIG", &docker.to_string())
            .env(
                "MESOS_ATTRIBUTES",
                &format!("rack:a;token:{}", secret("attribute")),
            )
    })?;
    let command = format!("echo {} >/dev/null; sleep 1000", secret("command"));
    let task = TaskSpec::new("task", &command)
        .label("note", &secret("tasklabel"))
        .set(
            "command",
            json!({
                "value": command, "shell": true,
                "environment": {"variables": [{"name": "NOTE", "value": secret("taskenv")}]},
            }),
        )
        .network_info(json!({
            "name": "blue",
            "labels": {"labels": [{"key": "note", "value": secret("label")}]},
        }));
    let id = container(&agent.run(task)?)?;
    let state = agent.state_dir();
    fs::create_dir_all(state.join("containers/broken"))?;
    fs::write(
        state.join("containers/broken/intent.json"),
        format!("{{\"labels\":[[\"a\",\"{}\"]],", secret("damaged")),
    )?;
    fs::create_dir_all(state.join("node"))?;
    node_daemon(&state.join("node/api.sock"))?;
    let log = path("agent.log");
    fs::write(
        &log,
        format!(
            "first line\npassword={} next\nGET https://u:{}@host/\nAuthorization: Bearer {}\nthe token is {}\n\
             key {}\nlast line\n",
            secret("logpassword"),
            secret("logurl"),
            secret("logheader"),
            secret("token"),
            secret("key"),
        ),
    )?;
    let operator = Operator {
        host: &host,
        config: agent.config_path(),
    };
    // The key is of a flag, so it is known by its file.
    let text = fs::read_to_string(agent.config_path())?;
    fs::write(
        agent.config_path(),
        text.replace(
            "token_file",
            &format!(
                "key_file = '{}'\ncertificate_file = '/x'\ntoken_file",
                path("agent.key")
            ),
        ),
    )?;
    let archive = path("dump.tar.gz");
    let address = format!("{}:5050", host.address());
    let dump = format!("dump --output {archive} --agent {address} --log {log}");
    let (success, printed, errors) = operator.run(&dump)?;
    ensure!(success, "{printed}{errors}");
    ensure!(
        !printed.contains(PLANTED) && !errors.contains(PLANTED),
        "{printed}{errors}"
    );
    assert_eq!(fs::metadata(&archive)?.permissions().mode() & 0o7777, 0o600);

    // Also of a configuration that is broken, and whose keys are wrong.
    let broken = format!(
        "state_dir = '{}'\n{}\npassword = '{}'\n[node]\nmanagers = ['https://u:{}@h:1']\n[[network",
        state.display(),
        config.lines().next().unwrap_or_default(),
        secret("wrongkey"),
        secret("url"),
    );
    fs::write(path("broken.toml"), broken)?;
    let other = Operator {
        host: &host,
        config: PathBuf::from(path("broken.toml")),
    };
    let second = path("second.tar.gz");
    let printed = other.succeeds(&format!("dump --output {second} --agent {address}"))?;
    ensure!(!printed.contains(PLANTED), "{printed}");

    let unpacked = path("unpacked");
    host.sh(&format!(
        "mkdir -p {unpacked}/1 {unpacked}/2 && tar -xzf {archive} -C {unpacked}/1 && \
         tar -xzf {second} -C {unpacked}/2"
    ))?;
    let found = host.sh(&format!(
        "grep -rao '.\\{{0,60\\}}{PLANTED}.\\{{0,20\\}}' {unpacked} || true"
    ))?;
    ensure!(found.is_empty(), "secrets in the archive:\n{found}");
    // What is around each secret is there: the places were read.
    for (file, part) in [
        ("configuration/agent.toml", "token_file"),
        ("configuration/agent.toml", "# password = '(hidden)'"),
        ("configuration/cni.json", "apiToken"),
        ("configuration/cni.json", "endpoint"),
        ("mesos/agents.json", "executor_environment_variables"),
        ("mesos/agents.json", "NOTE"),
        ("mesos/agents.json", "docker_config"),
        ("mesos/agents.json", "rack:a;token:(hidden)"),
        ("mesos/agent-named-containers.json", &id),
        ("mesos/agent-named-containers.json", "note"),
        ("mesos/agent-named-metrics.json", "slave/tasks_running"),
        ("state.json", "note"),
        ("state.json", "containers/broken/intent.json"),
        ("node-daemon/status.json", "https://***@manager/"),
        ("node-daemon/metrics.txt", "https://***@manager/"),
        ("logs/given-0.txt", "password=(hidden) next"),
        ("logs/given-0.txt", "the token is (hidden)"),
        ("logs/given-0.txt", "last line"),
        ("commands/doctor.json", "kernel-veth"),
        ("commands/status.json", &id),
        ("commands/check.json", "damaged-checkpoint"),
        ("host/links.txt", "blue0"),
        ("host/nftables-own.txt", "contrail_mesos"),
        ("host/settings.txt", "net.ipv4.ip_forward = 1"),
        ("host/conntrack.json", "limit"),
        ("host/system.json", "kernel_flags"),
        ("manifest.json", "\"schema_version\": 1"),
    ] {
        let out = host.sh(&format!("cat {unpacked}/1/*/{file}"))?;
        ensure!(out.contains(part), "{part} is not in {file}: {out}");
    }
    // Nothing is overwritten.
    let size = fs::metadata(&archive)?.len();
    let (success, _, errors) = operator.run(&dump)?;
    ensure!(!success && errors.contains("exists"), "{errors}");
    assert_eq!(fs::metadata(&archive)?.len(), size);
    fs::remove_dir_all(state.join("containers/broken"))?;
    fs::remove_dir_all(state.join("node"))?;
    drop(host);
    agent.end()
}
