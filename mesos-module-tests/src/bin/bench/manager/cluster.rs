//! The simulated cluster: the same tasks in Mesos, Marathon and the VNC API.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, anyhow};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_manager::vnc::{
    Domain, FqName, InstanceIp, IpamSubnet, KeyValues, NetworkIpam, NetworkIpamSubnets, Object,
    Prefix, Project, Ref, SecurityGroup, VirtualMachine, VirtualMachineInterface, VirtualNetwork,
    VirtualRouter,
};
use contrail_mesos_sim::mesos_master::{Agent, Master, Task, TaskState};
use contrail_mesos_sim::vnc::Handle;
use serde_json::{Value, json};
use uuid::Uuid;

const TASKS_PER_AGENT: usize = 20;
pub(crate) const TASKS_PER_APP: usize = 50;
/// Tasks that Mesos does not report at first. They are launched to measure writes.
pub(crate) const WAITING_TASKS: usize = 600;
const FRAMEWORK: &str = "6b8a02bb-2f3c-4f36-a6a1-b9a1a33d1f0a-0000";
const PROJECT: [&str; 2] = ["default-domain", "mesos-default"];
const NETWORK: &str = "mesos-default-pod-task-network";
const GROUP: &str = "web";

/// A cluster of `tasks` running tasks and [`WAITING_TASKS`] more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cluster {
    pub(crate) tasks: usize,
}

fn named<T: Object>(name: &[&str]) -> T {
    T::named(FqName::new(name.iter().copied()))
}

impl Cluster {
    pub(crate) fn agents(self) -> usize {
        self.tasks.div_ceil(TASKS_PER_AGENT)
    }

    fn container(number: usize) -> Uuid {
        // Like random ids: in no order.
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_be_bytes())
    }

    pub(crate) fn machine(number: usize) -> Uuid {
        agent_api::vm_uuid(&ContainerId::top_level(
            &Self::container(number).to_string(),
        ))
    }

    pub(crate) fn interface(number: usize) -> Uuid {
        agent_api::interface_uuid(Self::machine(number), "eth0")
    }

    fn app(number: usize) -> String {
        format!("/shop/web{}", number / TASKS_PER_APP)
    }

    /// The task id in the form of Marathon 1.11.
    pub(crate) fn task_id(number: usize) -> String {
        let instance = Self::container(number + (1 << 40));
        format!(
            "shop_web{}.instance-{instance}._app.1",
            number / TASKS_PER_APP
        )
    }

    fn agent_of(self, number: usize) -> usize {
        number % self.agents()
    }

    fn agent_id(number: usize) -> String {
        format!("6b8a02bb-2f3c-4f36-a6a1-b9a1a33d1f0a-S{number}")
    }

    fn host(number: usize) -> String {
        format!("node{number}.example")
    }

    fn address(block: u32, number: usize) -> Result<IpAddr> {
        Ok(Ipv4Addr::from_bits(block + u32::try_from(number)?).into())
    }

    fn task_address(number: usize) -> Result<IpAddr> {
        Self::address(0x0a20_0010, number)
    }

    pub(crate) fn task(self, number: usize) -> Result<Task> {
        Ok(Task {
            id: Self::task_id(number).into(),
            framework: FRAMEWORK.into(),
            agent: Self::agent_id(self.agent_of(number)).into(),
            container: Self::container(number).to_string().into(),
            network: ("contrail".into(), Self::task_address(number)?),
            vip: None,
            state: TaskState::TaskRunning,
        })
    }

    /// Adds everything to the master except the waiting tasks.
    pub(crate) fn fill_master(self, master: &Master) -> Result<()> {
        master.add_framework(FRAMEWORK, "marathon");
        for number in 0..self.agents() {
            master.add_agent(Agent {
                id: Self::agent_id(number).into(),
                host: Self::host(number).into(),
                address: Self::address(0x0a54_0001, number)?,
            });
        }
        for number in 0..self.tasks {
            master.add_task(self.task(number)?);
        }
        Ok(())
    }

    /// Marathon's list of apps, with the waiting tasks.
    pub(crate) fn apps(self) -> Result<Vec<Value>> {
        let all = self.tasks + WAITING_TASKS;
        (0..all.div_ceil(TASKS_PER_APP))
            .map(|app| {
                let first = app * TASKS_PER_APP;
                let tasks = (first..all.min(first + TASKS_PER_APP))
                    .map(|number| self.marathon_task(number))
                    .collect::<Result<Vec<_>>>()?;
                Ok(json!({
                    "id": Self::app(first), "cmd": "sleep 1000", "cpus": 0.1, "mem": 64,
                    "instances": tasks.len(), "labels": {},
                    "networks": [{"mode": "container", "name": "contrail",
                                  "labels": {"security-groups": GROUP}}],
                    "tasks": tasks, "tasksRunning": tasks.len(),
                    "version": "2026-11-21T03:00:24.084Z",
                }))
            })
            .collect()
    }

    fn marathon_task(self, number: usize) -> Result<Value> {
        Ok(json!({
            "appId": Self::app(number), "id": Self::task_id(number),
            "host": Self::host(self.agent_of(number)),
            "slaveId": Self::agent_id(self.agent_of(number)),
            "ipAddresses": [{"ipAddress": Self::task_address(number)?, "protocol": "IPv4"}],
            "ports": [], "servicePorts": [], "state": "TASK_RUNNING",
            "stagedAt": "2026-11-21T03:00:24.084Z", "startedAt": "2026-11-21T03:00:25.084Z",
            "version": "2026-11-21T03:00:24.084Z",
        }))
    }

    /// Creates the objects of all containers. Those of waiting tasks have no names from Mesos yet.
    pub(crate) fn fill_vnc(self, vnc: &Handle) -> Result<()> {
        create(vnc, &named::<Domain>(&PROJECT[..1])).ok();
        create(vnc, &named::<Project>(&PROJECT))?;
        let ipam = [PROJECT[0], PROJECT[1], "ipam"];
        create(vnc, &named::<NetworkIpam>(&ipam))?;
        let mut network: VirtualNetwork = named(&[PROJECT[0], PROJECT[1], NETWORK]);
        let subnet = IpamSubnet {
            subnet: Some(Prefix::of("10.32.0.0/12".parse()?)),
            ..IpamSubnet::default()
        };
        network.network_ipam_refs = vec![Ref::with(
            FqName::new(ipam),
            NetworkIpamSubnets {
                ipam_subnets: vec![subnet],
            },
        )];
        create(vnc, &network)?;
        create(
            vnc,
            &named::<SecurityGroup>(&[PROJECT[0], PROJECT[1], GROUP]),
        )?;
        for number in 0..self.tasks + WAITING_TASKS {
            self.fill_container(vnc, number)?;
        }
        for number in 0..self.agents() {
            let mut router: VirtualRouter =
                named(&["default-global-system-config", &Self::host(number)]);
            router.virtual_router_ip_address = Self::address(0x0a54_0001, number)?.into();
            let here = (number..self.tasks + WAITING_TASKS).step_by(self.agents());
            router.virtual_machine_refs = here
                .map(|number| Ref::to(FqName::new([Self::machine(number).to_string()])))
                .collect();
            create(vnc, &router)?;
        }
        Ok(())
    }

    fn fill_container(self, vnc: &Handle, number: usize) -> Result<()> {
        let machine = Self::machine(number);
        let name = machine.to_string();
        let task = Self::task_id(number);
        let has_names = number < self.tasks;
        let agent = self.agent_of(number);
        let ours = [
            ("owner", "contrail-mesos".to_owned()),
            ("cluster", "mesos".to_owned()),
            ("agent", Self::host(agent)),
        ];
        let names = [("application", Self::app(number)), ("task", task.clone())]
            .into_iter()
            .filter(|_| has_names);

        let mut object: VirtualMachine = named(&[&name]);
        object.common.uuid = Some(machine);
        object.server_type = Some("container".to_owned());
        let container = json!([Self::container(number).to_string()]).to_string();
        let more = [
            ("framework", "marathon".to_owned()),
            ("framework-id", FRAMEWORK.to_owned()),
            ("executor", task.clone()),
            ("mesos-agent", Self::agent_id(agent)),
        ];
        object.common.annotations = annotations(
            ours.clone()
                .into_iter()
                .chain([("container", container)])
                .chain(names.clone())
                .chain(more.into_iter().filter(|_| has_names)),
        );
        if has_names {
            // The manager uses the task id of Marathon as display name.
            object.common.display_name = Some(task.clone());
        }
        create(vnc, &object)?;

        let uuid = Self::interface(number);
        let interface_name = FqName::new(PROJECT).child(format!("{machine}-eth0"));
        let mut interface = VirtualMachineInterface::named(interface_name.clone());
        interface.common.uuid = Some(uuid);
        interface.common.display_name = has_names.then(|| format!("{task} eth0"));
        interface.common.parent_type = Some("project".to_owned());
        interface.virtual_network_refs =
            vec![Ref::to(FqName::new([PROJECT[0], PROJECT[1], NETWORK]))];
        interface.virtual_machine_refs = vec![Ref::to(FqName::new([name]))];
        interface.security_group_refs = vec![Ref::to(FqName::new([PROJECT[0], PROJECT[1], GROUP]))];
        interface.port_security_enabled = Some(true);
        let own = [
            ("index", "0/1".to_owned()),
            ("interface", "eth0".to_owned()),
            ("network", "contrail".to_owned()),
        ];
        interface.common.annotations = annotations(own.into_iter().chain(ours).chain(names));
        create(vnc, &interface)?;

        let address = agent_api::interface_uuid(machine, "address");
        let mut ip: InstanceIp = named(&[&address.to_string()]);
        ip.common.uuid = Some(address);
        ip.common.annotations = interface.common.annotations.clone();
        ip.instance_ip_address = Self::task_address(number)?.into();
        ip.virtual_network_refs
            .clone_from(&interface.virtual_network_refs);
        ip.virtual_machine_interface_refs = vec![Ref::to(interface_name)];
        create(vnc, &ip)
    }
}

fn annotations(pairs: impl Iterator<Item = (&'static str, String)>) -> KeyValues {
    pairs.map(|(key, value)| (key.to_owned(), value)).collect()
}

fn create<T: Object>(vnc: &Handle, object: &T) -> Result<()> {
    vnc.create(T::TYPE, serde_json::to_value(object)?)
        .map(drop)
        .map_err(|problem| anyhow!("the {} {}: {problem}", T::TYPE, object.common().fq_name))
}
