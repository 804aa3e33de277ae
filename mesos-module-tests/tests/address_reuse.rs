//! An address that goes from one container to another: the first packet is answered, both ways.

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, address, container};
use mesos_module_tests::testbed::framework::{TaskSpec, TaskUpdate};
use serde_json::json;

const ROUNDS: usize = 10;

/// A network of both families with a few addresses.
fn small(last: u8) -> String {
    format!(
        "[[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'blue0'\n\
         subnet = '10.32.0.0/24'\nrange = '10.32.0.2-10.32.0.{last}'\n\
         subnet6 = 'fd00:32::/64'\n"
    )
}

/// Sends one packet each way between the task and the host, and a neighbour. Nothing repeats it.
fn check(agent: &Agent, task: &TaskUpdate, neighbour: &TaskUpdate) -> Result<()> {
    let (inside, beside) = (container(task)?, container(neighbour)?);
    let ping = |to: &str| format!("ping -n -c 1 -W 5 {to}");
    let gateways = ["10.32.0.1", "fd00:32::1"];
    for (to, gateway) in task.addresses().iter().zip(gateways) {
        let to = to.to_string();
        agent.host().sh(&ping(&to))?;
        agent
            .host()
            .sh(&format!("ip netns exec {beside} {}", ping(&to)))?;
        agent
            .host()
            .sh(&format!("ip netns exec {inside} {}", ping(gateway)))?;
    }
    for to in neighbour.addresses() {
        let to = to.to_string();
        agent
            .host()
            .sh(&format!("ip netns exec {inside} {}", ping(&to)))?;
    }
    Ok(())
}

#[test]
fn static_address_is_reused_ten_times_in_a_row() -> Result<()> {
    let agent = Agent::start(&small(254))?;
    let neighbour = agent.run(TaskSpec::new("neighbour", "sleep 1000").network("blue"))?;
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        let mut addresses = vec![json!({"ip_address": "10.32.0.99"})];
        // Every other round the IPv6 address goes with another IPv4 address.
        if round % 2 == 0 {
            addresses = vec![json!({"protocol": "IPv4"})];
        }
        addresses.push(json!({"ip_address": "fd00:32::99"}));
        let network = json!({"name": "blue", "ip_addresses": addresses});
        let task = agent.run(TaskSpec::new(&name, "sleep 1000").network_info(network))?;
        check(&agent, &task, &neighbour)?;
        agent.kill_beside_one_other(&name)?;
    }
    agent.kill("neighbour")?;
    agent.end()
}

#[test]
fn address_of_a_small_pool_is_reused_ten_times_in_a_row() -> Result<()> {
    let agent = Agent::start(&small(3))?;
    let neighbour = agent.run(TaskSpec::new("neighbour", "sleep 1000").network("blue"))?;
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        let task = agent.run(TaskSpec::new(&name, "sleep 1000").network("blue"))?;
        ensure!(address(&task)?.to_string() == "10.32.0.3", "{task}");
        check(&agent, &task, &neighbour)?;
        agent.kill_beside_one_other(&name)?;
    }
    agent.kill("neighbour")?;
    agent.end()
}

#[test]
fn addresses_go_on_in_rotation_after_restarts_of_the_agent() -> Result<()> {
    let mut agent = Agent::start(&small(254))?;
    let neighbour = agent.run(TaskSpec::new("neighbour", "sleep 1000").network("blue"))?;
    let mut last = neighbour.addresses();
    for round in 0..ROUNDS {
        agent.crash()?;
        let name = format!("t{round}");
        let task = agent.run(TaskSpec::new(&name, "sleep 1000").network("blue"))?;
        let next = task.addresses();
        ensure!(
            next.iter().all(|address| !last.contains(address)),
            "{last:?}, {next:?}"
        );
        check(&agent, &task, &neighbour)?;
        agent.kill_beside_one_other(&name)?;
        last = next;
    }
    agent.kill("neighbour")?;
    agent.end()
}
