//! What all programs have in common: exit codes, streams, versions, manual pages, completions.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{self, BLUE};
use mesos_module_tests::testbed::{Host, module, program};
use serde_json::Value;

const PROGRAMS: [&str; 4] = [
    "contrail-mesos",
    "contrail-mesos-cni",
    "contrail-mesos-node",
    "contrail-mesos-manager",
];

/// What prints something, and its exit code. DIR is a directory with the files of [`write_files`],
/// LIBRARY the library for the agent.
const COMMANDS: &[(&str, i32)] = &[
    ("contrail-mesos --help", 0),
    ("contrail-mesos -h", 0),
    ("contrail-mesos --version", 0),
    ("contrail-mesos -V", 0),
    ("contrail-mesos help config check", 0),
    // No node daemon lets anything reach the container.
    ("contrail-mesos --config DIR/agent.toml status", 1),
    ("contrail-mesos --config DIR/agent.toml status -o json", 1),
    (
        "contrail-mesos --config DIR/agent.toml container show box",
        1,
    ),
    (
        "contrail-mesos --config DIR/agent.toml container show box -o json",
        1,
    ),
    ("contrail-mesos --config DIR/agent.toml network list", 0),
    (
        "contrail-mesos --config DIR/agent.toml network list -o json",
        0,
    ),
    (
        "contrail-mesos --config DIR/agent.toml network show blue",
        0,
    ),
    (
        "contrail-mesos --config DIR/agent.toml network show blue -o json",
        0,
    ),
    (
        "contrail-mesos --config DIR/agent.toml address show 10.32.0.2",
        0,
    ),
    (
        "contrail-mesos --config DIR/agent.toml address show 10.32.0.2 -o json",
        0,
    ),
    (
        "contrail-mesos --config DIR/agent.toml trace box 10.32.0.2:9",
        1,
    ),
    (
        "contrail-mesos --config DIR/agent.toml trace box 10.32.0.2:9 -o json",
        1,
    ),
    ("contrail-mesos connectivity --help", 0),
    ("contrail-mesos dump --help", 0),
    ("contrail-mesos --config DIR/agent.toml check", 0),
    ("contrail-mesos --config DIR/agent.toml check -o json", 0),
    ("contrail-mesos --config DIR/agent.toml config check", 0),
    (
        "contrail-mesos --config DIR/agent.toml config check -o json",
        0,
    ),
    ("contrail-mesos --config DIR/wrong.toml config check", 1),
    (
        "contrail-mesos --config DIR/wrong.toml config check --offline",
        1,
    ),
    (
        "contrail-mesos --config DIR/agent.toml doctor --agent 127.0.0.1:1",
        1,
    ),
    ("contrail-mesos module info LIBRARY", 0),
    ("contrail-mesos module info -o json LIBRARY", 0),
    (
        "contrail-mesos --config DIR/agent.toml attach other --network blue --dry-run",
        0,
    ),
    (
        "contrail-mesos --config DIR/agent.toml attach other --network blue --dry-run -o json",
        0,
    ),
    ("contrail-mesos --config DIR/agent.toml groups box", 0),
    (
        "contrail-mesos --config DIR/agent.toml groups box -o json",
        0,
    ),
    ("contrail-mesos --config DIR/agent.toml detach other", 0),
    ("contrail-mesos-cni --help", 0),
    ("contrail-mesos-cni --version", 0),
    ("contrail-mesos-node --help", 0),
    ("contrail-mesos-node --version", 0),
    (
        "contrail-mesos-node --config DIR/agent.toml config check",
        0,
    ),
    (
        "contrail-mesos-node --config DIR/wrong.toml config check -o json",
        1,
    ),
    ("contrail-mesos-node --config DIR/agent.toml --dry-run", 3),
    ("contrail-mesos-manager --help", 0),
    ("contrail-mesos-manager --version", 0),
    (
        "contrail-mesos-manager --config DIR/manager.toml config check",
        0,
    ),
    (
        "contrail-mesos-manager --config DIR/wrong.toml config check",
        1,
    ),
    ("contrail-mesos-manager dump --help", 0),
    ("contrail-mesos-manager healthcheck --help", 0),
    ("contrail-mesos-manager import DIR/old.ini", 0),
    ("contrail-mesos-manager overlay check DIR/overlay.json", 0),
];

/// Commands that print nothing but a log.
const SILENT: &[&str] = &["contrail-mesos-node-run", "contrail-mesos-manager-run"];

fn write_files(host: &Host) -> Result<()> {
    let directory = host.directory();
    let write = |name: &str, text: &str| fs::write(directory.join(name), text);
    let state = directory.join("state").display().to_string();
    write(
        "agent.toml",
        &format!("state_dir = '{state}'\n{BLUE}groups = true\n"),
    )?;
    write("wrong.toml", "colour = 1\nstate_dri = '/x'\n")?;
    write("manager.toml", "[vnc]\nservers = ['http://127.0.0.1:1']\n")?;
    write("old.ini", "[MESOS]\n[VNC]\nvnc_endpoint_ip = 10.0.0.1\n")?;
    write(
        "overlay.json",
        r#"{"vtep_subnet": "44.128.0.0/20", "vtep_mac_oui": "70:B3:D5:00:00:00",
            "overlays": [{"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24}]}"#,
    )?;
    Ok(())
}

/// A host with an attachment `box` on a network that isolates groups.
fn host() -> Result<Host> {
    let host = agent::host()?;
    write_files(&host)?;
    host.sh("ip netns add box")?;
    let output = run(
        &host,
        "contrail-mesos --config DIR/agent.toml attach box --netns box --network blue",
        |_| Ok(()),
    )?;
    ensure!(output.status.success(), "{output:?}");
    Ok(host)
}

/// Runs a command on the host, with streams that `change` may replace.
fn run(host: &Host, line: &str, change: impl FnOnce(&mut Command) -> Result<()>) -> Result<Output> {
    let line = line
        .replace("DIR", &host.directory().display().to_string())
        .replace("LIBRARY", &module()?.display().to_string());
    let mut words = line.split(' ');
    let mut command = host.command(program(words.next().context("no program")?)?);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    change(&mut command)?;
    let output = command.spawn()?.wait_with_output()?;
    Ok(output)
}

fn full() -> Result<File> {
    Ok(File::options().write(true).open("/dev/full")?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn output_that_cannot_be_written_is_no_panic() -> Result<()> {
    let host = host()?;
    for (line, code) in COMMANDS {
        let output = run(&host, line, |_| Ok(()))?;
        assert_eq!(output.status.code(), Some(*code), "{line}: {output:?}");
        ensure!(!output.stdout.is_empty(), "{line}: {output:?}");

        // Nobody reads: the exit code says what the command found.
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let output = run(&host, line, |command| {
            command.stdout(writer);
            Ok(())
        })?;
        assert_eq!(output.status.code(), Some(*code), "{line}: {output:?}");

        // A full disk is an error.
        let output = run(&host, line, |command| {
            command.stdout(full()?);
            Ok(())
        })?;
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        ensure!(
            text(&output.stderr).contains("cannot write the output"),
            "{line}: {output:?}"
        );

        // Nor can that be written.
        let output = run(&host, line, |command| {
            command.stdout(full()?).stderr(full()?);
            Ok(())
        })?;
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
    }
    Ok(())
}

#[test]
fn wrong_arguments_and_errors_have_their_exit_codes_and_streams() -> Result<()> {
    let host = host()?;
    for (line, code, expected) in [
        ("contrail-mesos", 2, "Usage: contrail-mesos"),
        ("contrail-mesos stauts", 2, "'status'"),
        ("contrail-mesos status --otput json", 2, "'--output'"),
        ("contrail-mesos status -o jsno", 2, "'json'"),
        ("contrail-mesos config", 2, "Usage: contrail-mesos config"),
        ("contrail-mesos -v -q status", 2, "--quiet"),
        (
            "contrail-mesos --config DIR/agent.toml groups nobody",
            1,
            "is not attached",
        ),
        (
            "contrail-mesos --config DIR/none.toml attach a --network b --dry-run",
            1,
            "none.toml",
        ),
        ("contrail-mesos generate man /dev/null/x", 1, "/dev/null/x"),
        ("contrail-mesos-cni --frobnicate", 2, "--frobnicate"),
        ("contrail-mesos-node --dry-run run", 2, "--dry-run"),
        ("contrail-mesos-node rnu", 2, "'rnu'"),
        (
            "contrail-mesos-node --config DIR/wrong.toml",
            1,
            "state_dri",
        ),
        ("contrail-mesos-manager --dry-run --check", 2, "--check"),
        (
            "contrail-mesos-manager --dry-run overlay check x",
            2,
            "--dry-run",
        ),
        (
            "contrail-mesos-manager --config DIR/wrong.toml",
            1,
            "colour",
        ),
        ("contrail-mesos-manager import DIR/none.ini", 1, "none.ini"),
        ("contrail-mesos-manager --log-level loud", 2, "loud"),
    ] {
        let output = run(&host, line, |_| Ok(()))?;
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        ensure!(output.stdout.is_empty(), "{line}: {output:?}");
        ensure!(
            text(&output.stderr).contains(expected),
            "{line}: {output:?}"
        );
        let output = run(&host, line, |command| {
            command.stderr(full()?);
            Ok(())
        })?;
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
    }
    Ok(())
}

#[test]
fn checks_of_all_programs_speak_the_same_words() -> Result<()> {
    let host = host()?;
    for program in &PROGRAMS {
        if *program == "contrail-mesos-cni" {
            continue;
        }
        let check = |options: &str| -> Result<Output> {
            let line = format!("{program} --config DIR/wrong.toml config check{options}");
            let output = run(&host, &line, |_| Ok(()))?;
            assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
            ensure!(output.stderr.is_empty(), "{line}: {output:?}");
            Ok(output)
        };
        let found = text(&check("")?.stdout);
        let lines: Vec<&str> = found.lines().collect();
        let file = host.directory().join("wrong.toml").display().to_string();
        ensure!(
            lines[0].starts_with(&format!("problem: {file}:1:1: colour: unknown key")),
            "{found}"
        );
        ensure!(
            lines
                .last()
                .is_some_and(|line| line.contains(&format!(" in {file}"))),
            "{found}"
        );
        let quiet = text(&check(" --quiet")?.stdout);
        ensure!(
            quiet.lines().all(|line| line.starts_with("problem: ")),
            "{quiet}"
        );
        let json: Value = serde_json::from_slice(&check(" -o json")?.stdout)?;
        assert_eq!(json["schema_version"], 1);
        assert_eq!(json["valid"], false, "{json}");
        assert_eq!(json["findings"][0]["line"], 1, "{json}");
        assert_eq!(json["findings"][0]["severity"], "problem", "{json}");
        assert_eq!(json["problems"], quiet.lines().count(), "{json}");
        // Colors only if they are wanted.
        for (variable, option, is_colored) in [
            (Some("CLICOLOR_FORCE"), "", true),
            (Some("CLICOLOR_FORCE"), " --no-color", false),
            (Some("NO_COLOR"), "", false),
            (None, "", false),
        ] {
            let line = format!("{program} --config DIR/wrong.toml config check{option}");
            let output = run(&host, &line, |command| {
                command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
                command.envs(variable.map(|variable| (variable, "1")));
                Ok(())
            })?;
            let found = text(&output.stdout);
            assert_eq!(found.contains("\u{1b}["), is_colored, "{line}: {found:?}");
        }
    }
    let output = run(
        &host,
        "contrail-mesos --config DIR/wrong.toml config check --offline",
        |_| Ok(()),
    )?;
    let found = text(&output.stdout);
    ensure!(
        found.contains("state_dri: unknown key; did you mean \"state_dir\"?"),
        "{found}"
    );
    Ok(())
}

#[test]
fn offline_check_looks_at_no_host() -> Result<()> {
    let host = host()?;
    // The subnet is there, and a bridge that isolates groups without the node daemon.
    host.sh("ip link add other type veth peer name another && ip link set another up && ip address add 10.32.0.99/25 dev other && ip link set other up")?;
    let here = run(
        &host,
        "contrail-mesos --config DIR/agent.toml config check",
        |_| Ok(()),
    )?;
    let here = text(&here.stdout);
    ensure!(
        here.contains("does not answer") && here.contains("other"),
        "{here}"
    );
    let line = "contrail-mesos --config DIR/agent.toml config check --offline";
    let output = run(&host, line, |_| Ok(()))?;
    let elsewhere = text(&output.stdout);
    ensure!(output.status.success(), "{elsewhere}");
    ensure!(
        elsewhere.contains("agent.toml: valid, 1 network")
            && !elsewhere.contains("does not answer")
            && !elsewhere.contains("other"),
        "{elsewhere}"
    );
    Ok(())
}

#[test]
fn verbose_and_quiet_change_the_log() -> Result<()> {
    let host = host()?;
    // A plugin that does not say its versions is worth a line of the level debug.
    let directory = host.directory();
    let shown = directory.display();
    fs::write(
        directory.join("cni.toml"),
        format!(
            "state_dir = '{shown}/state'\n[cni]\nconfig_dir = '{shown}/cni'\n\
             plugin_dirs = ['{shown}/plugins']\n"
        ),
    )?;
    fs::create_dir(directory.join("cni"))?;
    fs::create_dir(directory.join("plugins"))?;
    fs::copy("/bin/false", directory.join("plugins/broken"))?;
    fs::write(
        directory.join("cni/n.conf"),
        r#"{"name": "n", "cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0"], "type": "broken"}"#,
    )?;
    for (options, variable, is_logged) in [
        ("", "", false),
        (" -v", "", false),
        (" -vv", "", true),
        (" -v --verbose", "", true),
        ("", "debug", true),
        (" -q", "debug", false),
        (" -vv", "error", true),
    ] {
        let line = format!("contrail-mesos --config DIR/cni.toml config check{options}");
        let output = run(&host, &line, |command| {
            command.env_remove("RUST_LOG");
            if !variable.is_empty() {
                command.env("RUST_LOG", variable);
            }
            Ok(())
        })?;
        ensure!(output.status.success(), "{output:?}");
        let log = text(&output.stderr);
        assert_eq!(
            log.contains("does not say its versions"),
            is_logged,
            "{options:?} with RUST_LOG={variable:?}: {log}"
        );
    }
    // Nothing is confirmed, but what goes wrong is said.
    for (line, is_silent) in [
        ("detach other -q", true),
        ("check -q", true),
        ("config check -q", true),
        ("doctor -q --agent 127.0.0.1:1", false),
        ("attach other --network none -q", false),
    ] {
        let line = format!("contrail-mesos --config DIR/agent.toml {line}");
        let output = run(&host, &line, |_| Ok(()))?;
        let printed = text(&[output.stdout, output.stderr].concat());
        assert_eq!(printed.is_empty(), is_silent, "{line}: {printed}");
        ensure!(
            !printed.lines().any(|line| line.starts_with("ok ")),
            "{line}: {printed}"
        );
    }
    Ok(())
}

#[test]
fn version_says_program_commit_date_and_mesos() -> Result<()> {
    let host = host()?;
    for program in PROGRAMS {
        let printed = |option: &str| -> Result<String> {
            let output = run(&host, &format!("{program} {option}"), |_| Ok(()))?;
            Ok(text(&output.stdout))
        };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(printed("-V")?, format!("{program} {version}\n"));
        let long = printed("--version")?;
        let keys: Vec<&str> = long
            .lines()
            .map(|line| line.split(' ').next().unwrap_or_default())
            .collect();
        assert_eq!(keys, [program, "commit:", "date:", "Mesos:"], "{long}");
        ensure!(long.contains("\nMesos: 1."), "{long}");
    }
    Ok(())
}

#[test]
fn manual_pages_render_and_name_every_command() -> Result<()> {
    let host = host()?;
    let directory = host.directory().join("man");
    for program in PROGRAMS {
        let line = format!("{program} generate man DIR/man");
        let output = run(&host, &line, |_| Ok(()))?;
        ensure!(output.status.success(), "{line}: {output:?}");
    }
    let mut described = BTreeSet::new();
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        // Warnings are on its standard error.
        let output = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l"])
            .arg(&path)
            .envs([
                ("LC_ALL", "C.UTF-8"),
                ("MANROFFSEQ", ""),
                ("MANWIDTH", "80"),
                ("MAN_KEEP_FORMATTING", ""),
                ("PAGER", "cat"),
            ])
            .output()
            .context("cannot run man; is man-db installed?")?;
        ensure!(
            output.status.success() && output.stderr.is_empty(),
            "{}: {output:?}",
            path.display()
        );
        let page = text(&output.stdout);
        for heading in ["NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT"] {
            ensure!(
                page.lines().any(|line| line == heading),
                "{}: no {heading} in {page}",
                path.display()
            );
        }
        let name = path.file_stem().context("no name")?;
        described.insert(name.to_string_lossy().into_owned());
    }
    // Every command that does something is in the table of commands above.
    let tried: BTreeSet<String> = COMMANDS
        .iter()
        .map(|(line, _)| {
            let words = line
                .split(' ')
                .filter(|word| !word.contains(['/', '.', ':']));
            let words = words.take_while(|word| !word.starts_with('-') || *word == "--config");
            let words: Vec<&str> = words.filter(|word| *word != "--config").collect();
            words.join("-")
        })
        .collect();
    for name in &described {
        let is_group = described
            .iter()
            .any(|other| other.starts_with(&format!("{name}-")));
        let is_tried = SILENT.contains(&name.as_str())
            || tried
                .iter()
                .any(|line| line == name || line.starts_with(&format!("{name}-")));
        ensure!(
            is_tried || is_group,
            "{name} is not in the table: {tried:?}"
        );
    }
    for name in PROGRAMS {
        ensure!(described.contains(name), "{name}: {described:?}");
    }
    Ok(())
}

#[test]
fn completions_complete_commands_in_bash() -> Result<()> {
    let host = host()?;
    for program in PROGRAMS {
        let line = format!("{program} generate completions DIR/completions");
        let output = run(&host, &line, |_| Ok(()))?;
        ensure!(output.status.success(), "{line}: {output:?}");
    }
    for (program, begin, expected) in [
        ("contrail-mesos", "stat", "status"),
        ("contrail-mesos-node", "conf", "config"),
        ("contrail-mesos-manager", "imp", "import"),
    ] {
        let file = host
            .directory()
            .join(format!("completions/bash/{program}.bash"));
        let mut script = String::new();
        File::open(&file)?.read_to_string(&mut script)?;
        let function = script
            .lines()
            .find_map(|line| line.strip_suffix("() {"))
            .context("no function")?
            .to_owned();
        let script = format!(
            ". {}; COMP_WORDS=({program} {begin}); COMP_CWORD=1; \
             {function} {program} {begin} {program}; echo \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output()?;
        assert_eq!(text(&output.stdout).trim(), expected, "{output:?}");
    }
    Ok(())
}
