//! The testbed itself, without any module of ours: what the real Mesos does on a simulated host.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::framework::{GroupSpec, TaskSpec, TaskState};
use mesos_module_tests::testbed::{Cluster, Host, leftovers};

const TIMEOUT: Duration = Duration::from_mins(1);

fn host() -> Result<Host> {
    Host::start("192.0.2.1".parse()?)
}

/// Runs a test on a host, and fails if the host leaves anything on the machine.
fn on_a_host(test: impl FnOnce(&Host) -> Result<()>) -> Result<()> {
    let host = host()?;
    let name = host.name().to_owned();
    let result = test(&host);
    drop(host);
    result?;
    let traces = leftovers::traces_of(&name)?;
    ensure!(
        traces.is_empty(),
        "left on the machine:\n{}",
        traces.join("\n")
    );
    Ok(())
}

#[test]
fn two_clusters_on_one_machine_run_a_task_each() -> Result<()> {
    on_a_host(|one| {
        on_a_host(|two| {
            let clusters = [Cluster::on(one).start()?, Cluster::on(two).start()?];
            for cluster in &clusters {
                let framework = cluster.framework()?;
                cluster.host().block_on(async {
                    framework
                        .launch(TaskSpec::new("hello", "echo hello"))
                        .await?;
                    let running = framework
                        .wait_state("hello", TaskState::TaskRunning, TIMEOUT)
                        .await?;
                    assert_eq!(running.container_id.len(), 1);
                    let end = framework.wait_end("hello", TIMEOUT).await?;
                    assert_eq!(end.state, TaskState::TaskFinished, "{end}");
                    framework.teardown().await?;
                    anyhow::Ok(())
                })?;
            }
            Ok(())
        })
    })
}

#[test]
fn failed_and_killed_tasks_report_their_states() -> Result<()> {
    on_a_host(|host| {
        let cluster = Cluster::on(host).start()?;
        let framework = cluster.framework()?;
        host.block_on(async {
            framework.launch(TaskSpec::new("bad", "exit 3")).await?;
            let end = framework.wait_end("bad", TIMEOUT).await?;
            assert_eq!(end.state, TaskState::TaskFailed);
            assert!(end.message.contains("status 3"), "{end}");
            framework
                .launch(TaskSpec::new("long", "sleep 1000"))
                .await?;
            framework
                .wait_state("long", TaskState::TaskRunning, TIMEOUT)
                .await?;
            framework.kill("long").await?;
            let end = framework.wait_end("long", TIMEOUT).await?;
            assert_eq!(end.state, TaskState::TaskKilled, "{end}");
            anyhow::Ok(())
        })
    })
}

#[test]
fn task_group_runs_two_nested_containers() -> Result<()> {
    on_a_host(|host| {
        let cluster = Cluster::on(host).start()?;
        let framework = cluster.framework()?;
        host.block_on(async {
            let group = GroupSpec::new("pod")
                .task(TaskSpec::new("first", "sleep 1"))
                .task(TaskSpec::new("second", "true"));
            framework.launch_group(group).await?;
            for task in ["first", "second"] {
                let running = framework
                    .wait_state(task, TaskState::TaskRunning, TIMEOUT)
                    .await?;
                assert_eq!(running.container_id.len(), 2, "nested in the executor's");
                let end = framework.wait_end(task, TIMEOUT).await?;
                assert_eq!(end.state, TaskState::TaskFinished, "{end}");
            }
            // One that fails takes the others of its group with it.
            let group = GroupSpec::new("doomed")
                .task(TaskSpec::new("patient", "sleep 1000"))
                .task(TaskSpec::new("bad", "exit 7"));
            framework.launch_group(group).await?;
            let end = framework.wait_end("bad", TIMEOUT).await?;
            assert_eq!(end.state, TaskState::TaskFailed, "{end}");
            let end = framework.wait_end("patient", TIMEOUT).await?;
            assert_eq!(end.state, TaskState::TaskKilled, "{end}");
            anyhow::Ok(())
        })
    })
}

#[test]
fn image_container_runs_in_its_root_filesystem() -> Result<()> {
    on_a_host(|host| {
        let cluster = Cluster::on(host).images().start()?;
        let framework = cluster.framework()?;
        host.block_on(async {
            let command = "test -L /bin/ls && test ! -e /etc/debian_version";
            let task = TaskSpec::new("command", command).image("busybox");
            framework.launch(task).await?;
            let end = framework.wait_end("command", TIMEOUT).await?;
            assert_eq!(end.state, TaskState::TaskFinished, "{end}");
            let group =
                GroupSpec::new("pod").task(TaskSpec::new("nested", command).image("busybox"));
            framework.launch_group(group).await?;
            let end = framework.wait_end("nested", TIMEOUT).await?;
            assert_eq!(end.state, TaskState::TaskFinished, "{end}");
            anyhow::Ok(())
        })
    })
}

#[test]
fn network_cni_gives_a_task_and_a_pod_an_address() -> Result<()> {
    on_a_host(|host| {
        let config = host.directory().join("cni");
        fs::create_dir_all(&config)?;
        let network = serde_json::json!({
            "name": "peer", "type": "bridge", "bridge": "cni-peer",
            "cniVersion": "0.2.0", "isGateway": true,
            "ipam": {"type": "host-local", "subnet": "198.51.100.0/24",
                     "dataDir": host.directory().join("ipam"),
                     "routes": [{"dst": "0.0.0.0/0"}]},
        });
        fs::write(config.join("peer.json"), network.to_string())?;
        let before = host.leftovers()?;
        let cluster = Cluster::on(host)
            .isolation(&["network/cni"])
            .env("MESOS_NETWORK_CNI_PLUGINS_DIR", "/usr/lib/cni")
            .env(
                "MESOS_NETWORK_CNI_CONFIG_DIR",
                &config.display().to_string(),
            )
            .start()?;
        let framework = cluster.framework()?;
        host.block_on(async {
            let show = "ip -o -4 address show eth0 > address";
            let task = TaskSpec::new("task", show).network("peer");
            framework.launch(task).await?;
            let pod = GroupSpec::new("pod").network("peer");
            framework
                .launch_group(pod.task(TaskSpec::new("nested", show)))
                .await?;
            for (task, executor) in [("task", "task"), ("nested", "pod")] {
                let running = framework
                    .wait_state(task, TaskState::TaskRunning, TIMEOUT)
                    .await?;
                let address = *running.addresses().first().context("no address")?;
                assert!(address.to_string().starts_with("198.51.100."), "{address}");
                let end = framework.wait_end(task, TIMEOUT).await?;
                assert_eq!(end.state, TaskState::TaskFinished, "{end}");
                let mut sandbox = cluster.sandbox(&framework, executor)?;
                if let [_, nested] = &running.container_id[..] {
                    sandbox = sandbox.join("containers").join(nested);
                }
                let inside = fs::read_to_string(sandbox.join("address"))?;
                assert!(inside.contains(&address.to_string()), "{inside}");
            }
            anyhow::Ok(())
        })?;
        cluster.stop()?;
        // The plugin keeps its bridge, and Mesos a directory.
        let more = host.leftovers()?.since(&before);
        let links: Vec<_> = more
            .iter()
            .filter(|line| line.starts_with("link"))
            .collect();
        assert_eq!(links, ["link cni-peer"]);
        Ok(())
    })
}

#[test]
fn tasks_survive_sigkill_of_the_agent() -> Result<()> {
    on_a_host(|host| {
        let before = host.leftovers()?;
        let mut cluster = Cluster::on(host).start()?;
        let framework = cluster.framework()?;
        let flag = host.directory().join("go");
        let command = format!("until test -e {}; do sleep 0.05; done", flag.display());
        let id = framework.id().to_owned();
        host.block_on(async {
            framework.launch(TaskSpec::new("task", &command)).await?;
            let group = GroupSpec::new("pod").task(TaskSpec::new("nested", &command));
            framework.launch_group(group).await?;
            for task in ["task", "nested"] {
                framework
                    .wait_state(task, TaskState::TaskRunning, TIMEOUT)
                    .await?;
            }
            anyhow::Ok(())
        })?;
        cluster.kill_9()?;
        cluster.restart()?;
        fs::write(&flag, "")?;
        host.block_on(async {
            for task in ["task", "nested"] {
                let end = framework.wait_end(task, TIMEOUT).await?;
                assert_eq!(end.state, TaskState::TaskFinished, "{task}: {end}");
            }
            anyhow::Ok(())
        })?;
        assert_eq!(framework.id(), id);
        // An update that was not acknowledged while the agent was down is sent again.
        fs::remove_file(&flag)?;
        host.block_on(framework.launch(TaskSpec::new("quiet", &command)))?;
        host.block_on(framework.wait_state("quiet", TaskState::TaskRunning, TIMEOUT))?;
        cluster.kill_9()?;
        fs::write(&flag, "")?;
        // The task ends while there is no agent to tell.
        std::thread::sleep(Duration::from_millis(300));
        cluster.restart()?;
        let end = host.block_on(framework.wait_end("quiet", TIMEOUT))?;
        assert_eq!(end.state, TaskState::TaskFinished, "{end}");
        cluster.stop()?;
        host.expect_nothing_since(&before)
    })
}
