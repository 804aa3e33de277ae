//! Services whose tasks are on virtual networks of Contrail.

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::marathon::ids;
use mesos_module_tests::testbed::services::{
    ContrailServices, LINK_LOCAL_DNS, service_name, virtual_network_app,
};
use mesos_module_tests::testbed::until;
use serde_json::json;

#[test]
fn virtual_networks_reach_services_by_name_and_address() -> Result<()> {
    let cluster = ContrailServices::start(2)?;
    let client = cluster.run_client("/client")?;
    let labels = json!({ "VIP_0": "/shop:80" });
    let shop = virtual_network_app("/shop", 2, &labels);
    let tasks = cluster.marathon.run(&shop)?;
    let address = cluster.virtual_address(80, 2)?;
    let ids = ids(&tasks);
    client.expect_answers(&ids, |place| place.get(&format!("http://{address}/")))?;
    client.expect_answers(&ids, |place| place.get_service("shop", 80))?;
    let name = service_name("shop");
    let answer = client.sh(&format!("dig +short @{LINK_LOCAL_DNS} {name} A"))?;
    ensure!(answer.trim() == address.to_string(), "{answer}");

    let tasks = cluster.marathon.scale("/shop", 1)?;
    cluster.virtual_address(80, 1)?;
    let left = &tasks[0].id;
    for _ in 0..8 {
        let answer = client.get(&format!("http://{address}/"))?;
        ensure!(answer == *left, "{answer} is not {left}");
    }
    cluster.marathon.delete("/shop")?;
    until("the name is gone with the last backend", || {
        let answer = client.sh(&format!("dig @{LINK_LOCAL_DNS} {name} A"))?;
        ensure!(answer.contains("status: NXDOMAIN"), "{answer}");
        Ok(Some(()))
    })?;
    cluster.contrail.expect_none_of("floating-ip")?;
    cluster.marathon.delete("/client")?;
    cluster.end()
}
