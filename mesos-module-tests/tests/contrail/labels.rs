//! Valid and invalid labels.

use anyhow::{Result, ensure};
use contrail_mesos_manager::vnc::{FloatingIpPool, FqName, Object as _, SecurityGroup};
use mesos_module_tests::testbed::contrail::open_ports;
use mesos_module_tests::testbed::{Host, agent};

use crate::fixture::{BLUE, Fixture, address_in, blue, task};

/// Each message names the unknown value and the known ones. Nothing is left, and the agent works on.
#[test]
fn unknown_names_are_refused_with_the_known_ones() -> Result<()> {
    let fixture = Fixture::start()?;
    let long = "x".repeat(300);
    for (id, labels, expected) in [
        (
            "network",
            vec![("networks", "blu"), ("project-name", "default-project")],
            "blue-network",
        ),
        (
            "project",
            vec![("networks", "blue-network"), ("project-name", "nobody's")],
            "nobody's",
        ),
        (
            "group",
            [
                BLUE.to_vec(),
                vec![("security-groups", "default-domain:default-project:none")],
            ]
            .concat(),
            "none",
        ),
        (
            "pool",
            [
                BLUE.to_vec(),
                vec![(
                    "floating-ips",
                    "default-domain:default-project:blue-network:none",
                )],
            ]
            .concat(),
            "none",
        ),
        (
            "floating",
            [BLUE.to_vec(), vec![("floating-ips", "a:b(c")]].concat(),
            "floating-ips",
        ),
        (
            "subnet",
            [BLUE.to_vec(), vec![("network-subnets", "9.9.9.0/24")]].concat(),
            "9.9.9.0/24",
        ),
        (
            "long",
            vec![
                ("networks", long.as_str()),
                ("project-name", "default-project"),
            ],
            "xxx",
        ),
        (
            "hostile",
            vec![
                ("networks", "$(reboot);'\"\n../../x"),
                ("project-name", "default-project"),
            ],
            "reboot",
        ),
        (
            "list",
            vec![("networks", "blue-network,blue-network")],
            "list each network once",
        ),
    ] {
        let message = fixture.agent.refused(task(id, "true", &labels))?;
        ensure!(message.contains(expected), "{id}: {message}");
    }
    fixture.expect_nothing()?;
    fixture.agent.passes(task("good", "true", &BLUE))?;
    fixture.expect_nothing()?;
    fixture.end()
}

#[test]
fn exhausted_network_and_address_in_use_are_refused() -> Result<()> {
    let fixture = Fixture::start()?;
    let tiny = [
        ("networks", "tiny-network"),
        ("project-name", "default-project"),
    ];
    let mut running = 0;
    let message = loop {
        let id = format!("t{running}");
        fixture.agent.launch(task(&id, "exec sleep 1000", &tiny))?;
        let update = fixture.agent.settled(&id)?;
        if update.state.is_terminal() {
            break update.message;
        }
        running += 1;
    };
    // Of 8 addresses, gateway, name server, network and broadcast are not for containers.
    ensure!(
        running == 4 && message.contains("the network has no free address"),
        "{running}: {message}"
    );
    let one = fixture.agent.run(blue("one"))?;
    let taken = address_in(&one, "5.5.5.")?;
    let task_at = |id: &str, address: &str| {
        let mut info = crate::fixture::info(&BLUE);
        info["ip_addresses"] = serde_json::json!([{ "ip_address": address }]);
        mesos_module_tests::testbed::framework::TaskSpec::new(id, "exec sleep 1000")
            .network_info(info)
    };
    let message = fixture.agent.refused(task_at("taken", &taken))?;
    ensure!(message.contains(&taken), "{message}");
    let message = fixture.agent.refused(task_at("outside", "8.8.8.8"))?;
    ensure!(message.contains("8.8.8.8"), "{message}");
    // Refused at once, with the reason, and no object was made for it.
    let made = |fixture: &Fixture| {
        let log = fixture.contrail.api().log();
        log.iter()
            .filter(|record| record.path == "/virtual-machines")
            .count()
    };
    let before = made(&fixture);
    let message = fixture.agent.refused(task_at("gateway", "5.5.5.254"))?;
    ensure!(
        message.contains("5.5.5.254 is the gateway of 5.5.5.0/24"),
        "{message}"
    );
    ensure!(
        made(&fixture) == before,
        "the request reached the API server"
    );
    let update = fixture.agent.run(task_at("chosen", "5.5.5.77"))?;
    address_in(&update, "5.5.5.77")?;
    fixture.end()
}

/// The API server answers 200 for a named subnet without a free address, and creates an instance-ip
/// that has none.
#[test]
fn named_subnet_that_is_used_up_is_refused_until_an_address_is_free() -> Result<()> {
    let mut fixture = Fixture::start()?;
    let labels = |subnets: &'static str| {
        [
            ("networks", "small-network"),
            ("network-subnets", subnets),
            ("project-name", "default-project"),
        ]
    };
    let sleep = |id: &str, subnets| task(id, "exec sleep 1000", &labels(subnets));
    let both = "12.8.1.0/29,12.8.2.0/24";
    for id in ["a", "b", "c", "d"] {
        let update = fixture.agent.run(sleep(id, both))?;
        address_in(&update, "12.8.1.")?;
    }
    let counts = fixture.contrail.api().counts();
    let message = fixture.agent.refused(sleep("full", "12.8.1.0/29"))?;
    ensure!(
        message.contains("no free address in 12.8.1.0/29"),
        "{message}"
    );
    let left = fixture.contrail.api().counts();
    ensure!(left == counts, "{counts:?}, and then {left:?}");
    let update = fixture.agent.run(sleep("next", both))?;
    address_in(&update, "12.8.2.")?;
    for id in ["a", "b", "c", "d", "next"] {
        fixture.agent.kill(id)?;
    }
    // Addresses are free when the objects are gone, a moment after the tasks.
    fixture.contrail.expect_none_of("virtual-machine")?;
    fixture.contrail.expect_none_of("instance-ip")?;
    let update = fixture.agent.run(sleep("again", "12.8.1.0/29"))?;
    address_in(&update, "12.8.1.")?;
    fixture.agent.kill("again")?;
    fixture.contrail.expect_none_of("virtual-machine")?;
    // The network was created for the first task, and stays.
    fixture.contrail.set_baseline();
    fixture.end()
}

#[test]
fn missing_network_is_created_if_a_subnet_is_given() -> Result<()> {
    let mut fixture = Fixture::start()?;
    let labels = [
        ("networks", "new-network"),
        ("network-subnets", "12.12.12.0/24"),
        ("project-name", "default-project"),
    ];
    let update = fixture.agent.run(task("one", "exec sleep 1000", &labels))?;
    address_in(&update, "12.12.12.")?;
    fixture.agent.kill("one")?;
    fixture.contrail.expect_none_of("virtual-machine")?;
    // The network stays: only the objects of containers are deleted with them.
    let networks = fixture.contrail.api().objects("virtual-network");
    let made = networks
        .iter()
        .filter(|network| network["fq_name"][2] == "new-network");
    ensure!(made.count() == 1, "{networks:?}");
    fixture.contrail.set_baseline();
    fixture.end()
}

#[test]
fn security_group_opens_one_port_and_floating_ip_leads_inside() -> Result<()> {
    let outside = Host::start("192.0.2.100".parse()?)?;
    let host = agent::host()?;
    outside.connect(&[&host], &["6.6.6.0/24"])?;
    let mut fixture = Fixture::on(host, "", Some("uplink"))?;
    let group: FqName = "default-domain:default-project:security_groups_mesos".parse()?;
    let mut object = SecurityGroup::named(group);
    object.security_group_entries = Some(open_ports(&[8080]));
    let pool: FqName = "default-domain:default-project:red-network:outside".parse()?;
    fixture.contrail.ensure(&object)?;
    fixture.contrail.ensure(&FloatingIpPool::named(pool))?;
    fixture.contrail.set_baseline();
    let labels = [
        BLUE.to_vec(),
        vec![
            (
                "security-groups",
                "default-domain:default-project:security_groups_mesos",
            ),
            (
                "floating-ips",
                "default-domain:default-project:red-network:outside(6.6.6.66)",
            ),
        ],
    ]
    .concat();
    let server =
        "busybox httpd -p 8080 -h /etc && busybox httpd -p 8081 -h /etc && exec sleep 1000";
    let one = fixture.agent.run(task("server", server, &labels))?;
    let address = address_in(&one, "5.5.5.")?;
    let fetch = |address: &str, port: u16| {
        format!("curl -sS -m 2 -o /dev/null http://{address}:{port}/hostname")
    };
    // The task runs a moment before its server does.
    let open = format!(
        "for i in 1 2 3 4 5; do {} && exit 0; sleep 1; done; exit 1",
        fetch(&address, 8080)
    );
    fixture.agent.passes(task("open", &open, &BLUE))?;
    let red = [
        ("networks", "red-network"),
        ("project-name", "default-project"),
    ];
    let not = |command: String| format!("! {command}");
    fixture
        .agent
        .passes(task("closed", &not(fetch(&address, 8081)), &BLUE))?;
    fixture
        .agent
        .passes(task("other", &not(fetch(&address, 8080)), &red))?;
    outside.sh(&fetch("6.6.6.66", 8080))?;
    ensure!(
        outside.sh(&fetch("6.6.6.66", 8081)).is_err(),
        "the security group does not apply to the floating IP"
    );
    fixture.agent.kill("server")?;
    fixture.expect_nothing()?;
    fixture.end()
}
