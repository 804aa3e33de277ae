//! `contrail-mesos`, as an operator uses it on a host without any agent.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos::node_state::{LocalOverlay, NodeState};
use contrail_mesos_api::cluster::Revision;
use mesos_module_tests::testbed::agent::{self, BLUE, RED};
use mesos_module_tests::testbed::{Cluster, Host, Install, agent_library, module, program};
use serde_json::{Value, json};

struct Operator {
    host: Host,
    config: PathBuf,
}

impl Operator {
    fn new(config: &str) -> Result<Self> {
        let host = agent::host()?;
        let path = host.directory().join("agent.toml");
        let state = host.directory().join("state");
        fs::write(
            &path,
            format!("state_dir = '{}'\n{config}", state.display()),
        )?;
        Ok(Self { host, config: path })
    }

    /// What the command prints, and whether it succeeded.
    fn run(&self, arguments: &str) -> Result<(bool, String)> {
        let output = self
            .host
            .command(program("contrail-mesos")?)
            .arg("--config")
            .arg(&self.config)
            .args(arguments.split(' '))
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    }

    fn succeeds(&self, arguments: &str) -> Result<String> {
        let (success, text) = self.run(arguments)?;
        ensure!(success, "{arguments}: {text}");
        Ok(text)
    }

    fn fails(&self, arguments: &str) -> Result<String> {
        let (success, text) = self.run(arguments)?;
        ensure!(!success, "{arguments}: {text}");
        Ok(text)
    }
}

/// What `status` reports of the interface eth0 of a container: its state and its problems.
fn reported(operator: &Operator, container: &str) -> Result<(bool, String, String)> {
    let (success, text) = operator.run("status -o json")?;
    let status: Value = serde_json::from_str(&text).context(text)?;
    let rows = status["containers"].as_array().context("no containers")?;
    let row = rows
        .iter()
        .find(|row| row["container"] == container)
        .context("the container is not listed")?;
    let state = row["state"].as_str().context("no state")?;
    let problems = row["networks"][0]["problems"].to_string();
    Ok((success, state.to_owned(), problems))
}

#[test]
fn status_names_what_is_degraded() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let host = &operator.host;
    host.sh("ip netns add box")?;
    operator.succeeds("attach box --netns box --network blue --port 8080:80")?;
    let bridge = host.sh("ip -o link show type bridge | sed 's/^[0-9]*: //; s/:.*//'")?;
    let bridge = bridge.trim();
    for (change, problem) in [
        (format!("ip link set {bridge} down"), bridge),
        (format!("ip address flush dev {bridge}"), "10.32.0.1"),
        ("nft flush ruleset".to_owned(), "contrail_mesos"),
        ("sysctl -qw net.ipv4.ip_forward=0".to_owned(), "forward"),
    ] {
        ensure!(reported(&operator, "box")?.0, "before {change}");
        host.sh(&change)?;
        let (success, state, problems) = reported(&operator, "box")?;
        ensure!(
            !success && state == "degraded" && problems.contains(problem),
            "{change}: {state}: {problems}"
        );
        let table = operator.fails("status")?;
        ensure!(
            table.contains("box on blue degraded: "),
            "{change}: {table}"
        );
        operator.succeeds("detach box")?;
        operator.succeeds("attach box --netns box --network blue --port 8080:80")?;
    }
    ensure!(reported(&operator, "box")?.0, "after the last change");
    Ok(())
}

#[test]
fn namespace_is_attached_shown_and_detached() -> Result<()> {
    let operator = Operator::new(&format!("{BLUE}{RED}"))?;
    let host = &operator.host;
    host.sh("ip netns add box")?;
    let before = host.leftovers()?;
    let text = operator.succeeds(
        "attach box --netns box --network blue --network red --address 10.32.0.9 --port 8080:80",
    )?;
    ensure!(text.contains("eth0 on blue: 10.32.0.9/24"), "{text}");
    host.sh(
        "ping -c 1 -W 5 10.32.0.9 && ip netns exec box ip -o address show eth1 | grep -q fd00:33::",
    )?;
    // Another process of the command gives another address.
    host.sh("ip netns add other")?;
    operator.succeeds("attach other --netns other --network blue")?;
    let status: Value = serde_json::from_str(&operator.succeeds("status -o json")?)?;
    let rows = status["containers"].as_array().context("no containers")?;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0]["networks"].as_array().map(Vec::len), Some(2));
    ensure!(
        rows.iter().all(|row| row["state"] == "attached"),
        "{rows:?}"
    );
    let table = operator.succeeds("status -o wide")?;
    ensure!(
        table.contains("10.32.0.9/24") && table.contains("8080:80/tcp"),
        "{table}"
    );
    let text = operator.fails("attach thief --netns other --network blue --address 10.32.0.9")?;
    ensure!(
        text.contains("10.32.0.9") && text.contains("taken"),
        "{text}"
    );

    host.sh("ip netns exec box ip link delete eth0")?;
    let text = operator.fails("status")?;
    ensure!(text.contains("lost"), "{text}");
    operator.succeeds("detach box")?;
    operator.succeeds("detach other")?;
    ensure!(operator.succeeds("detach box")?.contains("nothing to do"));
    // The namespaces are the operator's, and stay.
    host.sh("ip netns exec box true && ip netns delete other")?;
    host.expect_nothing_since(&before)
}

#[test]
fn namespace_on_an_overlay_needs_the_node_state_for_its_attach_only() -> Result<()> {
    let operator = Operator::new(
        "[deadlines]\nprepare = '300ms'\n[[network]]\nname = 'vxlan-1'\nprovider = 'overlay'\n",
    )?;
    let host = &operator.host;
    host.sh("ip netns add box")?;
    let before = host.leftovers()?;
    for arguments in [
        "attach box --netns box --network vxlan-1",
        "attach box --network vxlan-1 --dry-run",
    ] {
        let text = operator.fails(arguments)?;
        ensure!(text.contains("overlays.json does not exist"), "{text}");
    }
    let text = operator.succeeds("config check")?;
    ensure!(text.contains("overlays.json does not exist"), "{text}");
    host.expect_nothing_since(&before)?;

    let state_dir = host.directory().join("state");
    let overlay = LocalOverlay {
        name: "vxlan-1".to_owned(),
        vni: 4097,
        subnet: Some("9.0.1.0/25".parse()?),
        subnet6: Some("fd09:0:0:1::/65".parse()?),
        mtu: 1450,
        groups: None,
        problem: None,
        blocks: vec![],
        withdrawn: vec![],
    };
    let cluster = vec!["9.0.0.0/8".parse()?, "fd09::/16".parse()?];
    let (name, revision) = ("agent-1".to_owned(), Revision::default());
    NodeState::new(name, revision, vec![overlay], cluster).write(&state_dir)?;
    let text = operator.succeeds("config check")?;
    ensure!(
        text.contains("vxlan-1: overlay vxlan-1 9.0.1.0/25"),
        "{text}"
    );
    let text = operator.succeeds("attach box --network vxlan-1 --dry-run")?;
    for expected in [
        "create the bridge m-vxlan-1",
        "9.0.1.0-9.0.1.127 . 0.0.0.0-8.255.255.255 of masquerade4",
        "9.0.1.0-9.0.1.127 . 10.0.0.0-223.255.255.255 of masquerade4",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    operator.succeeds("attach box --netns box --network vxlan-1 --port 8080:80")?;
    host.sh("ping -c 1 -W 5 9.0.1.2 && ip netns exec box ping -c 1 -W 5 fd09:0:0:1::1")?;
    fs::remove_file(NodeState::path(&state_dir))?;
    let (success, state, problems) = reported(&operator, "box")?;
    ensure!(success && state == "attached", "{state}: {problems}");
    operator.succeeds("detach box")?;
    host.expect_nothing_since(&before)
}

#[test]
fn groups_of_a_container_are_shown_and_changed() -> Result<()> {
    let isolating = BLUE.trim_end().to_owned() + "\ngroups = true\n";
    let operator = Operator::new(&format!("{isolating}{RED}"))?;
    let host = &operator.host;
    host.sh("ip netns add box && ip netns add plain")?;
    let before = host.leftovers()?;
    let text = operator.succeeds("config check")?;
    for expected in [
        "blue: 10.32.0.0/24 isolates groups, admits hosts and mapped-ports",
        "contrail-mesos-node does not answer",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    let label = "--label netgroups=web,db";
    let text = operator.fails(&format!(
        "attach box --netns box --network red {label} --label security-groups=s"
    ))?;
    ensure!(text.contains("does not isolate groups"), "{text}");
    operator.succeeds(&format!("attach box --netns box --network blue {label}"))?;
    operator.succeeds("attach plain --netns plain --network red")?;
    let groups = |arguments: &str| -> Result<Value> {
        let command = format!("groups box -o json {arguments}");
        let text = operator.succeeds(command.trim_end())?;
        let groups: Value = serde_json::from_str(&text).context(text)?;
        let network = &groups["networks"][0];
        ensure!(network["network"] == "blue", "{groups}");
        // No node daemon runs, so nothing reaches it.
        let status: Value = serde_json::from_str(&operator.fails("status -o json")?)?;
        let rows = &status["containers"];
        let [blue, red] = [0, 1].map(|index| &rows[index]["networks"][0]);
        ensure!(blue["groups"] == network["groups"], "{rows}");
        ensure!(blue["security_groups"] == network["security_groups"]);
        ensure!(red["groups"] == Value::Null, "{rows}");
        let problems = blue["problems"].to_string();
        ensure!(problems.contains("contrail_mesos_groups"), "{rows}");
        Ok(json!([
            network["groups"],
            network["security_groups"],
            groups["is_changed"]
        ]))
    };
    assert_eq!(groups("")?, json!([["db", "web"], [], false]));
    assert_eq!(
        groups("--group b --group a")?,
        json!([["a", "b"], [], true])
    );
    let text = operator.fails("groups box --security-group s")?;
    ensure!(text.contains("overlays.json does not exist"), "{text}");
    let state_dir = host.directory().join("state");
    let name = "agent-1".to_owned();
    let mut state = NodeState::new(name, Revision::default(), vec![], vec![]);
    state.security_groups = vec!["s".to_owned()];
    state.write(&state_dir)?;
    assert_eq!(groups("--security-group s")?, json!([[], ["s"], true]));
    let table = operator.fails("status -o wide")?;
    ensure!(table.contains("security group s"), "{table}");
    assert_eq!(groups("--none")?, json!([[], [], true]));
    for (arguments, expected) in [
        ("groups box --security-group unknown", "unknown"),
        ("groups box --group a,b", "no group has the name"),
        ("groups box --none --reset", "cannot be used"),
        ("groups plain --group a", "no network that isolates groups"),
        ("groups nobody --group a", "not attached"),
    ] {
        let text = operator.fails(arguments)?;
        ensure!(text.contains(expected), "{arguments}: {text}");
    }
    assert_eq!(groups("")?, json!([[], [], true]));
    let file = state_dir.join("containers/box/groups.json");
    fs::write(&file, "{")?;
    let (success, state, problems) = reported(&operator, "box")?;
    ensure!(
        !success && state == "degraded" && problems.contains("groups.json"),
        "{state}: {problems}"
    );
    assert_eq!(groups("--reset")?, json!([["db", "web"], [], false]));
    operator.succeeds("detach box")?;
    operator.succeeds("detach plain")?;
    fs::remove_dir_all(state_dir.join("node"))?;
    host.expect_nothing_since(&before)
}

#[test]
fn dry_run_prints_every_change_and_makes_none() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let before = operator.host.leftovers()?;
    let text = operator.succeeds("attach box --network blue --port 8080:80 --dry-run")?;
    for expected in [
        "lease 10.32.0.2 of network blue",
        "create the nftables table inet contrail_mesos",
        "create the bridge blue0",
        "give 10.32.0.1/24 to blue0",
        "create the veth pair cm",
        "in the container: give 10.32.0.2/24 to eth0",
        "8080",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    operator.host.expect_nothing_since(&before)?;
    ensure!(!operator.host.directory().join("state/containers").exists());
    Ok(())
}

#[test]
fn config_check_reports_every_problem() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let text = operator.succeeds("config check")?;
    ensure!(
        text.contains("valid, 1 network") && text.contains("10.32.0.0/24"),
        "{text}"
    );
    let operator = Operator::new("colour = 'blue'\n[[network]]\nname = 'a b'\n")?;
    let text = operator.fails("config check")?;
    for expected in [
        "agent.toml:2:1: colour: unknown key",
        "agent.toml:4:8: network[0].name: expected the name that frameworks use",
        "a network needs a provider",
        "3 problems in",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    Ok(())
}

#[test]
fn invalid_request_is_refused_and_leaves_nothing() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    operator.host.sh("ip netns add box")?;
    let before = operator.host.leftovers()?;
    for (arguments, expected) in [
        (
            "attach c --netns box --network pink",
            "unknown network \"pink\"",
        ),
        ("attach c --netns nowhere --network blue", "nowhere"),
        (
            "attach c --pid 1 --network blue",
            "host's own network namespace",
        ),
        (
            "attach c --netns box --network blue --port 0:80",
            "host port 0",
        ),
    ] {
        let text = operator.fails(arguments)?;
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    operator.host.expect_nothing_since(&before)
}

/// The same host with another state directory for the same networks.
fn with_another_state_directory(operator: &Operator, config: &str) -> Result<Operator> {
    let path = operator.host.directory().join("another.toml");
    let state = operator.host.directory().join("another");
    fs::write(
        &path,
        format!("state_dir = '{}'\n{config}", state.display()),
    )?;
    Ok(Operator {
        host: operator.host.clone(),
        config: path,
    })
}

#[test]
fn attach_of_an_id_in_use_leaves_its_container_alone() -> Result<()> {
    let operator = Operator::new(&format!("{BLUE}{RED}"))?;
    let host = &operator.host;
    let another = with_another_state_directory(&operator, &format!("{BLUE}{RED}"))?;
    host.sh("ip netns add one && ip netns add two")?;
    let before = host.leftovers()?;
    operator.succeeds("attach box --netns one --network blue --port 8080:80")?;
    let attached = host.leftovers()?;
    let ruleset = host.sh("nft list ruleset")?;
    for arguments in [
        "attach box --netns two --network blue",
        "attach box --netns one --network blue",
        "attach box --netns two --network red",
        "attach box --netns two --network blue --port 8080:80",
        "attach box --netns two --network blue --address 10.32.0.9",
        "attach box --network blue --dry-run",
    ] {
        let text = operator.fails(arguments)?;
        ensure!(
            text.contains(
                "box is attached already (blue eth0 10.32.0.2); contrail-mesos detach box first"
            ),
            "{arguments}: {text}"
        );
    }
    for arguments in [
        "attach box --netns two --network blue",
        "attach box --netns one --network blue",
        "attach box --netns two --network red --network blue",
        "attach box --netns two --network blue --port 8080:80",
        "attach box --network blue --dry-run",
        "attach other --netns one --network red",
    ] {
        let text = another.fails(arguments)?;
        ensure!(text.contains("already"), "{arguments}: {text}");
    }
    host.expect_nothing_since(&attached)?;
    assert_eq!(host.sh("nft list ruleset")?, ruleset);
    host.sh("ping -c 1 -W 5 10.32.0.2")?;
    ensure!(operator.succeeds("status")?.contains("attached"));
    let containers = host.directory().join("another/containers");
    assert_eq!(fs::read_dir(containers)?.count(), 0);
    // Detached with the state directory with which it was attached, the id is free for the other.
    operator.succeeds("detach box")?;
    another.succeeds("attach box --netns two --network blue")?;
    operator.fails("attach box --netns one --network blue")?;
    host.sh("ping -c 1 -W 5 10.32.0.2")?;
    another.succeeds("detach box")?;
    host.expect_nothing_since(&before)
}

#[test]
fn attach_of_an_id_with_a_damaged_checkpoint_is_refused() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let host = &operator.host;
    host.sh("ip netns add one && ip netns add two")?;
    operator.succeeds("attach box --netns one --network blue")?;
    let directory = host.directory().join("state/containers/box");
    let intent = directory.join("intent.json");
    let complete = fs::read(&intent)?;
    let damages: [&dyn Fn() -> Result<()>; 4] = [
        &|| Ok(fs::write(&intent, &complete[..40])?),
        &|| Ok(fs::write(&intent, "")?),
        &|| Ok(fs::write(&intent, "{\"version\":9}")?),
        &|| {
            fs::remove_file(&intent)?;
            host.sh(&format!("mkfifo {}", intent.display())).map(drop)
        },
    ];
    for damage in damages {
        damage()?;
        for arguments in [
            "attach box --netns two --network blue",
            "attach box --network blue --dry-run",
        ] {
            let text = operator.fails(arguments)?;
            ensure!(text.contains("contrail-mesos detach --force box"), "{text}");
        }
        host.sh("ping -c 1 -W 5 10.32.0.2")?;
    }
    // Its checkpoint is gone: its interface says that it is attached.
    fs::remove_dir_all(&directory)?;
    for arguments in [
        "attach box --netns two --network blue",
        "attach box --network blue --dry-run",
    ] {
        let text = operator.fails(arguments)?;
        ensure!(
            text.contains("the interface eth0 of container box is attached already"),
            "{text}"
        );
    }
    host.sh("ping -c 1 -W 5 10.32.0.2")?;
    ensure!(!directory.exists(), "the refused attach left a checkpoint");
    fs::create_dir(&directory)?;
    fs::write(&intent, &complete)?;
    operator.succeeds("detach box")?;
    Ok(())
}

#[test]
fn name_that_is_no_container_id_is_refused() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    operator.host.sh("ip netns add one")?;
    for name in ["", "a\u{a0}b", "../x", "a/b", "-x", "a\tb", "a\nb"] {
        // After --, a name that begins with a dash is no option.
        let text = operator.fails(&format!("attach --netns one --network blue -- {name}"))?;
        ensure!(
            text.contains("is no name for a container"),
            "{name:?}: {text}"
        );
    }
    ensure!(!operator.host.directory().join("state/containers").exists());
    Ok(())
}

#[test]
fn pipes_in_the_state_directory_do_not_block() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let host = &operator.host;
    let state = host.directory().join("state").display().to_string();
    host.sh(&format!(
        "mkdir -p {state}/networks/blue {state}/containers/pipe {state}/contrail/pending-teardown
         mkfifo {state}/networks/blue/10.32.0.2 {state}/containers/pipe/intent.json \
                {state}/contrail/pending-teardown/pipe.json
         ip netns add one && mkfifo /run/netns/pipe"
    ))?;
    let text = operator.succeeds("attach box --netns one --network blue")?;
    ensure!(text.contains("10.32.0.3"), "{text}");
    let text = operator.fails("attach other --netns one --network blue --address 10.32.0.2")?;
    ensure!(text.contains("already") || text.contains("taken"), "{text}");
    operator.fails("attach other --netns pipe --network blue")?;
    let text = operator.fails("status")?;
    ensure!(
        text.contains("not a regular file") && text.contains("10.32.0.3"),
        "{text}"
    );
    operator.succeeds("detach box")?;
    Ok(())
}

#[test]
fn broken_configuration_does_not_prevent_status_and_detach() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let host = &operator.host;
    host.sh("ip netns add one && ip netns add two")?;
    let before = host.leftovers()?;
    let good = fs::read_to_string(&operator.config)?;
    for (container, netns, broken) in [
        ("a", "one", format!("{good}\ncolour = 1\n[[network\n")),
        (
            "b",
            "two",
            format!("{good}\n[contrail]\nmanagers = ['m']\ntoken_file = '/nowhere/token'\n"),
        ),
    ] {
        operator.succeeds(&format!(
            "attach {container} --netns {netns} --network blue"
        ))?;
        fs::write(&operator.config, broken)?;
        let text = operator.succeeds("status")?;
        ensure!(
            text.contains("10.32.0.") && text.contains("attached") && text.contains("going on"),
            "{text}"
        );
        operator.succeeds(&format!("detach {container}"))?;
        fs::write(&operator.config, &good)?;
    }
    // A state directory that is not understood must be given.
    operator.succeeds("attach a --netns one --network blue")?;
    fs::write(&operator.config, good.replace("state_dir", "state-dir"))?;
    ensure!(operator.fails("status")?.contains("give --state-dir"));
    let state = host.directory().join("state").display().to_string();
    operator.succeeds(&format!("status --state-dir {state}"))?;
    operator.succeeds(&format!("detach a --state-dir {state}"))?;
    host.expect_nothing_since(&before)
}

#[test]
fn detach_of_a_damaged_checkpoint_needs_force() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let host = &operator.host;
    host.sh("ip netns add one")?;
    let before = host.leftovers()?;
    let intent = host.directory().join("state/containers/box/intent.json");
    for (damage, expected) in [
        ("{\"version\"", "intent.json"),
        ("{\"version\":9}", "newer"),
    ] {
        operator.succeeds("attach box --netns one --network blue --port 8080:80")?;
        fs::write(&intent, damage)?;
        let text = operator.fails("detach box")?;
        ensure!(
            text.contains(expected) && text.contains("--force"),
            "{expected:?} is not in {text}"
        );
        host.sh("ping -c 1 -W 5 10.32.0.2 || ping -c 1 -W 5 10.32.0.3")?;
        operator.succeeds("detach box --force")?;
        host.expect_nothing_since(&before)?;
        ensure!(operator.succeeds("detach box")?.contains("nothing to do"));
    }
    // The namespace is the operator's.
    host.sh("ip netns exec one true")?;
    Ok(())
}

#[test]
fn output_that_nobody_reads_is_no_panic() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let program = program("contrail-mesos")?.display().to_string();
    let config = operator.config.display();
    let run = |command: &str, output: &str| {
        let command = format!("{program} --config {config} {command}");
        operator.host.sh(&format!("{command} 2>&1 {output}"))
    };
    for command in [
        "status",
        "status -o json",
        "config check",
        "attach box --network blue --dry-run",
        "detach box",
    ] {
        let text = run(command, "| true; echo end")?;
        ensure!(text == "end\n", "{command}: {text}");
        // The standard error is where the output was before, so that it can be read.
        let text = operator.host.sh(&format!(
            "{program} --config {config} {command} 2>&1 >/dev/full || echo \"exit $?\""
        ))?;
        ensure!(
            text.contains("cannot write the output") && text.contains("exit 1"),
            "{command}: {text}"
        );
    }
    Ok(())
}

#[test]
fn dry_run_has_json_and_names_each_change_once() -> Result<()> {
    let operator = Operator::new(&format!("{BLUE}{RED}"))?;
    let command = "attach box --network blue --network red --dry-run";
    let text = operator.succeeds(command)?;
    let mut lines: Vec<&str> = text.lines().collect();
    let count = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), count, "{text}");
    let plan: Value = serde_json::from_str(&operator.succeeds(&format!("{command} -o json"))?)?;
    let changes = plan["changes"].as_array().context("no changes")?;
    assert_eq!(changes.len(), count);
    assert_eq!(plan["container"], "box");
    let text = operator.fails("attach box --network blue")?;
    ensure!(text.contains("--netns or --pid"), "{text}");
    Ok(())
}

#[test]
fn commands_that_need_root_say_so() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let program = program("contrail-mesos")?.display().to_string();
    let config = operator.config.display();
    for command in [
        "status",
        "detach box",
        "attach box --network blue --dry-run",
    ] {
        // A user namespace without any mapping: nobody, who may still read the program.
        let text = operator.host.sh(&format!(
            "unshare --user {program} --config {config} {command} 2>&1 || echo \"exit $?\""
        ))?;
        ensure!(
            text.contains("needs root") && text.contains("exit 1"),
            "{command}: {text}"
        );
    }
    Ok(())
}

#[test]
fn operating_system_error_is_said_once() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    for (arguments, cause) in [
        ("attach box --netns nowhere --network blue", "No such file"),
        (
            "attach box --netns /etc/passwd --network blue",
            "/etc/passwd",
        ),
        ("attach box --pid 4194303 --network blue", "4194303"),
    ] {
        let text = operator.fails(arguments)?;
        assert_eq!(text.matches(cause).count(), 1, "{arguments}: {text}");
        assert_eq!(text.matches("os error").count().max(1), 1, "{text}");
    }
    Ok(())
}

#[test]
fn config_check_compares_networks_with_the_host() -> Result<()> {
    let operator = Operator::new(
        "[[network]]\nname = 'lan'\nprovider = 'bridge'\nsubnet = '10.99.0.0/24'\n\
         [[network]]\nname = 'nic'\nprovider = 'bridge'\nsubnet = '10.98.0.0/24'\nbridge = 'nic9'\n\
         [[network]]\nname = 'routed'\nprovider = 'bridge'\nsubnet = '172.20.5.0/24'\n",
    )?;
    operator.host.sh(
        "ip link add nic9 type veth peer name nic8 && ip link set nic8 up && ip link set nic9 up && ip address add 10.99.0.7/24 dev nic9
         ip route add 172.20.0.0/16 dev nic9",
    )?;
    let text = operator.fails("config check")?;
    for expected in [
        "agent.toml:5:10: network[0].subnet: ",
        "agent.toml:10:10: network[1].bridge: ",
        "warning: ",
        "agent.toml:14:10: network[2].subnet: ",
        "nic9",
        "2 problems in",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    operator.host.sh("ip link delete nic9")?;
    operator.succeeds("config check")?;
    Ok(())
}

#[test]
fn shipped_example_says_what_is_to_be_filled_in() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent.toml.example");
    fs::copy(example, &operator.config)?;
    let text = operator.fails("config check")?;
    for key in ["token_file", "ca_file", "certificate_file", "key_file"] {
        for table in ["contrail", "node"] {
            let key = format!("{table}.{key}: ");
            ensure!(text.contains(&key), "{key}: {text}");
        }
    }
    ensure!(text.contains("8 problems in"), "{text}");
    Ok(())
}

#[test]
fn module_info_reads_built_libraries_and_refuses_other_files() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let info = |library: &str| -> Result<Value> {
        let text = operator.succeeds(&format!("module info -o json {library}"))?;
        serde_json::from_str(&text).context(text)
    };
    let names = |info: &Value| -> Vec<String> {
        let modules = info["modules"].as_array().into_iter().flatten();
        let names = modules.filter_map(|module| module["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let library = module()?.display().to_string();
    let document = info(&library)?;
    assert_eq!(
        names(&document),
        ["network/contrail", "org_contrail_mesos_Hook"]
    );
    assert_eq!(document["schema_version"], 1);
    let build = &document["builds"][0];
    assert_eq!(build["package"], "contrail-mesos", "{document}");
    assert_eq!(build["version"], env!("CARGO_PKG_VERSION"), "{document}");
    let module = &document["modules"][0];
    assert_eq!(
        (&module["kind"], &module["mesos_version"]),
        (&json!("Isolator"), &build["mesos_version"])
    );
    // A library of the dev profile has the layout and says no commit; one that MODULE names has others.
    if std::env::var_os("MODULE").is_none() {
        assert_eq!(build["mesos_version"], "1.11.0", "{document}");
        assert_eq!(
            (&build["layout"], &build["commit"]),
            (&json!("recorded"), &Value::Null)
        );
    }
    let of_node = names(&info(&agent_library()?.display().to_string())?);
    for name in [
        "com_mesosphere_mesos_AgentOverlayHelper",
        "com_mesosphere_mesos_OverlayAgentManager",
    ] {
        ensure!(
            of_node.iter().any(|other| other == name),
            "{name}: {of_node:?}"
        );
    }
    let text = operator.succeeds(&format!("module info {library}"))?;
    ensure!(
        text.contains("network/contrail (Isolator for Mesos "),
        "{text}"
    );
    for other in [
        program("contrail-mesos")?.display().to_string(),
        operator.config.display().to_string(),
        "/bin/sh".to_owned(),
    ] {
        let text = operator.fails(&format!("module info {other}"))?;
        ensure!(text.contains("is no library of contrail-mesos"), "{text}");
    }
    Ok(())
}

/// The outcomes of `doctor -o json` with this name, each with its severity and text.
fn outcomes(report: &Value, name: &str) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().into_iter().flatten();
    let named = checks.filter(|check| check["name"] == name);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    named
        .map(|check| (text(&check["severity"]), text(&check["text"])))
        .collect()
}

#[test]
fn doctor_checks_flags_and_library_of_a_real_agent() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let host = &operator.host;
    let config = operator.config.display().to_string();
    // Without the hook.
    let cluster = Cluster::on(host)
        .module(&module()?, "network/contrail", &[("config", &config)])
        .isolation(&["network/contrail"])
        .start()?;
    let before = host.leftovers()?;
    let mesos = Install::find()?.mesos_containerizer;
    let address = format!("{}:5050", host.address());
    let common = format!(
        "doctor -o json --agent {address} --mesos {}",
        mesos.display()
    );
    let text = operator.succeeds(&common)?;
    let report: Value = serde_json::from_str(&text).context(text)?;
    assert_eq!(
        (&report["schema_version"], &report["severity"]),
        (&json!(1), &json!("warning"))
    );
    for name in [
        "agent",
        "agent-address",
        "library",
        "library-mesos",
        "kernel-nftables",
    ] {
        let outcomes = outcomes(&report, name);
        ensure!(
            outcomes.iter().all(|(severity, _)| severity == "ok"),
            "{name}: {report:#}"
        );
        ensure!(!outcomes.is_empty(), "{name}: {report:#}");
    }
    ensure!(
        outcomes(&report, "library-mesos")[0].1.contains("1.11.0"),
        "{report:#}"
    );
    let flags = outcomes(&report, "agent-flags");
    ensure!(flags.len() == 1 && flags[0].0 == "warning", "{report:#}");
    ensure!(flags[0].1.contains("org_contrail_mesos_Hook"), "{report:#}");
    assert_eq!(outcomes(&report, "agent-modules"), [], "{report:#}");

    let text = operator.fails(&format!("{common} --library {config}"))?;
    let report: Value = serde_json::from_str(&text).context(text)?;
    assert_eq!(outcomes(&report, "library")[0].0, "failure", "{report:#}");
    cluster.stop()?;
    let text = operator.fails(&format!("doctor --agent {address}"))?;
    ensure!(text.contains("failure  agent "), "{text}");
    // What was tried is gone.
    host.expect_nothing_since(&before)
}
