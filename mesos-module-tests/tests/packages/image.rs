//! The image of the manager, built and run by the real Docker.

use std::fs;

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::docker::Docker;
use mesos_module_tests::testbed::{Host, until};
use serde_json::Value;

use crate::build::{bare_root, packages, source};

const CONFIG: &str =
    "admin_listen = '127.0.0.1:6993'\n[overlay]\nfile = '/etc/contrail-mesos/overlay.json'\n";
const OVERLAYS: &str = "{\"vtep_subnet\": \"44.128.0.0/16\", \"vtep_mac_oui\": \"70:B3:D5:00:00:00\", \
    \"overlays\": [{\"name\": \"dcos\", \"subnet\": \"9.0.0.0/8\", \"prefix\": 24}]}";
/// The user in the image.
const USER: &str = "64180";

#[test]
fn manager_image_runs_read_only_as_its_own_user_until_sigterm() -> Result<()> {
    let host = Host::start("192.0.2.1".parse()?)?;
    let context = host.directory().join("dist");
    packages(&context, "1.0.0", "deb", &["contrail-mesos-manager"])?;
    let etc = host.directory().join("etc");
    fs::create_dir_all(&etc)?;
    fs::write(etc.join("manager.toml"), CONFIG)?;
    fs::write(etc.join("overlay.json"), OVERLAYS)?;

    let docker = Docker::start(&host)?;
    // Each step of the build copies it.
    docker.import(
        &bare_root()?,
        &["usr/share", "var", "usr/lib/rpm"],
        "debian",
    )?;
    docker.run(&format!(
        "build --network none --build-arg BASE=debian --tag manager --file {} {} 2>&1",
        source()?.join("packaging/oci/Containerfile").display(),
        context.display()
    ))?;
    docker.run(&format!(
        "run --detach --name manager --network host --read-only --cap-drop ALL \
         --security-opt no-new-privileges --health-interval 1s \
         --volume {}:/etc/contrail-mesos:ro --volume state:/var/lib/contrail-mesos-manager manager",
        etc.display()
    ))?;
    let healthy = until("the manager is healthy", || {
        let state = inspect(&docker, "{{json .State}}")?;
        ensure!(
            state["Running"] == true,
            "{}",
            docker.run("logs manager 2>&1")?
        );
        Ok((state["Health"]["Status"] == "healthy").then_some(state))
    });
    healthy.map_err(|error| match docker.run("logs manager 2>&1") {
        Ok(log) => error.context(log),
        Err(_) => error,
    })?;
    let process = inspect(&docker, "{{json .State.Pid}}")?;
    let status = host.sh(&format!("cat /proc/{process}/status"))?;
    for (field, value) in [
        ("Uid:", USER),
        ("Gid:", USER),
        ("NoNewPrivs:", "1"),
        ("CapBnd:", "0000000000000000"),
    ] {
        let line = status.lines().find(|line| line.starts_with(field));
        ensure!(
            line.is_some_and(|line| line.split_whitespace().nth(1) == Some(value)),
            "{field} {line:?}"
        );
    }
    // It was written by the manager, in the one place that can be.
    let state =
        docker.run("cp manager:/var/lib/contrail-mesos-manager/overlay.json - | tar -xO")?;
    ensure!(state.starts_with('{'), "{state}");
    ensure!(
        docker.run("exec manager /bin/sh -c true").is_err(),
        "there is a shell in the image"
    );

    docker.run("stop --time 60 manager")?;
    let state = inspect(&docker, "{{json .State}}")?;
    ensure!(
        state["ExitCode"] == 0 && state["OOMKilled"] == false,
        "{state}"
    );
    let log = docker.run("logs manager 2>&1")?;
    ensure!(log.contains("stopping"), "{log}");
    docker.run("rm manager && true")?;
    docker.end()
}

fn inspect(docker: &Docker, format: &str) -> Result<Value> {
    let text = docker.run(&format!("inspect --format '{format}' manager"))?;
    Ok(serde_json::from_str(&text)?)
}
