//! Tests against the simulated API server: the manager's calls for a container.

use secrecy::SecretString;

use super::*;
use contrail_mesos_sim::vnc::{
    Auth as SimAuth, Effect, Fault, Handle, Keystone as SimKeystone, Options, Server as Simulator,
};

async fn start(options: Options) -> (Handle, VncClient) {
    let (address, handle) = Simulator::start(options).await.unwrap();
    let client = VncClient::new(self::options(&[address])).unwrap();
    (handle, client)
}

fn name(text: &str) -> FqName {
    text.parse().unwrap()
}

/// Creates the objects that exist before any container: project, network and host.
async fn provision(client: &VncClient) -> Result<(), VncError> {
    client
        .ensure(&Project::named(name("default-domain:mesos")))
        .await?;
    let mut ipam = NetworkIpam::named(name("default-domain:mesos:ipam"));
    ipam.ipam_subnet_method = Some("flat-subnet".to_owned());
    ipam.ipam_subnets = Some(IpamSubnets {
        subnets: vec![IpamSubnet {
            subnet: Some(Prefix::of("10.40.0.0/24".parse().unwrap())),
            ..IpamSubnet::default()
        }],
    });
    client.ensure(&ipam).await?;
    let mut network = VirtualNetwork::named(name("default-domain:mesos:blue"));
    network.address_allocation_mode = Some("flat-subnet-only".to_owned());
    network.virtual_network_properties = Some(VirtualNetworkProperties {
        forwarding_mode: Some("l3".to_owned()),
        ..VirtualNetworkProperties::default()
    });
    network.network_ipam_refs = vec![Ref::with(
        ipam.common.fq_name,
        NetworkIpamSubnets::default(),
    )];
    client.ensure(&network).await?;
    let router = VirtualRouter::named(name("default-global-system-config:node1"));
    client.ensure(&router).await?;
    Ok(())
}

fn interface(container: uuid::Uuid) -> VirtualMachineInterface {
    let name = name("default-domain:mesos").child(container.to_string());
    let mut interface = VirtualMachineInterface::named(name);
    interface.common.uuid = Some(uuid::Uuid::new_v5(&container, b"eth0"));
    interface.common.annotations = [("index", "0/1")].into_iter().collect();
    interface.virtual_network_refs = vec![Ref::to(self::name("default-domain:mesos:blue"))];
    interface.virtual_machine_refs = vec![Ref::to(FqName::new([container.to_string()]))];
    interface
}

/// Ensures all objects of a container, and returns its address.
async fn attach(
    client: &VncClient,
    container: uuid::Uuid,
    router: uuid::Uuid,
) -> Result<std::net::IpAddr, VncError> {
    let mut machine = VirtualMachine::named(FqName::new([container.to_string()]));
    machine.common.uuid = Some(container);
    client.ensure(&machine).await?;
    let interface = interface(container);
    client.ensure(&interface).await?;
    let mut ip = InstanceIp::named(FqName::new([format!("{container}-0")]));
    ip.common.uuid = Some(uuid::Uuid::new_v5(&container, b"ip"));
    ip.virtual_network_refs
        .clone_from(&interface.virtual_network_refs);
    ip.virtual_machine_interface_refs = vec![Ref::to(interface.common.fq_name.clone())];
    let ip = client.ensure(&ip).await?.uuid;
    client
        .link::<VirtualRouter, VirtualMachine>(router, container)
        .await?;
    let ip: InstanceIp = client.read(ip).await?.unwrap();
    Ok(ip.instance_ip_address.0.unwrap())
}

/// Deletes all objects of a container, in the order that the server requires.
async fn detach(
    client: &VncClient,
    container: uuid::Uuid,
    router: uuid::Uuid,
) -> Result<(), VncError> {
    client
        .unlink::<VirtualRouter, VirtualMachine>(router, container)
        .await?;
    let query = Query::new().referring_to([container]).detail(Detail::Names);
    for interface in client.list::<VirtualMachineInterface>(&query).await? {
        let interface = interface.common.uuid.unwrap();
        let query = Query::new().referring_to([interface]).detail(Detail::Names);
        for ip in client.list::<InstanceIp>(&query).await? {
            client.delete::<InstanceIp>(ip.common.uuid.unwrap()).await?;
        }
        client.delete::<VirtualMachineInterface>(interface).await?;
    }
    client.delete::<VirtualMachine>(container).await?;
    Ok(())
}

async fn router(client: &VncClient) -> uuid::Uuid {
    let name = name("default-global-system-config:node1");
    client.id_of::<VirtualRouter>(&name).await.unwrap().unwrap()
}

#[tokio::test]
async fn attach_and_detach_container() {
    let (server, client) = start(Options::default()).await;
    provision(&client).await.unwrap();
    let router = router(&client).await;
    let before = server.counts();
    let container = uuid(VM);
    let requests = client.requests();
    let address = attach(&client, container, router).await.unwrap();
    assert_eq!(address.to_string(), "10.40.0.252");
    // One call per object, one for the link, one for the address.
    assert_eq!(client.requests() - requests, 5);
    assert_eq!(attach(&client, container, router).await.unwrap(), address);

    let options = ReadOptions {
        back_refs: true,
        ..ReadOptions::default()
    };
    let machine: VirtualMachine = client
        .read_with(container, &options)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(machine.virtual_router_back_refs[0].uuid, Some(router));
    let interface: VirtualMachineInterface = client
        .find(&interface(container).common.fq_name)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(interface.common.annotations.get("index"), Some("0/1"));
    assert_eq!(
        interface
            .virtual_machine_interface_mac_addresses
            .unwrap()
            .mac_address
            .len(),
        1
    );

    let error = client
        .delete::<VirtualMachine>(container)
        .await
        .unwrap_err();
    let VncErrorKind::Referenced { by } = error.kind else {
        panic!("{error}")
    };
    assert!(!by.is_empty());
    detach(&client, container, router).await.unwrap();
    detach(&client, container, router).await.unwrap();
    assert_eq!(server.counts(), before);
}

#[tokio::test]
async fn fault_at_any_step_leaves_no_duplicates_or_leftovers() {
    let (server, client) = start(Options::default()).await;
    provision(&client).await.unwrap();
    let router = router(&client).await;
    let before = server.counts();
    let container = uuid(VM);
    for effect in [
        Effect::Cut,
        Effect::CutInBody,
        Effect::Status(503, "no ZooKeeper".to_owned()),
    ] {
        for performed in [false, true] {
            // A call that was not performed has no body to cut.
            if effect == Effect::CutInBody && !performed {
                continue;
            }
            for step in 0..16 {
                let fault = Fault::new(effect.clone()).times(step, 1);
                server.fault(if performed { fault.performed() } else { fault });
                attach(&client, container, router).await.unwrap();
                assert_eq!(server.counts()["instance-ip"], 1);
                detach(&client, container, router).await.unwrap();
                server.clear_faults();
                assert_eq!(server.counts(), before, "{effect:?} {performed} {step}");
            }
        }
    }
}

#[tokio::test]
async fn call_waits_for_restarting_server() {
    let (server, client) = start(Options::default()).await;
    provision(&client).await.unwrap();
    server.unplug();
    let plug = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.plug().await.unwrap();
    };
    let project = name("default-domain:mesos");
    let (result, ()) = tokio::join!(client.find::<Project>(&project), plug);
    assert!(result.unwrap().is_some());
}

#[tokio::test]
async fn expired_token_is_renewed() {
    let keystone = SimKeystone::with_admin("admin", "secret", "admin");
    let (address, server) = Simulator::start(Options {
        auth: SimAuth::Keystone(keystone),
        ..Options::default()
    })
    .await
    .unwrap();
    let client = |password: &str| {
        VncClient::new(VncOptions {
            auth: Auth::Keystone(Keystone {
                url: server.url(),
                user: "admin".to_owned(),
                password: SecretString::from(password),
                project: "admin".to_owned(),
                domain: "Default".to_owned(),
                version: KeystoneVersion::Any,
            }),
            ..options(&[address])
        })
        .unwrap()
    };
    let valid = client("secret");
    provision(&valid).await.unwrap();
    server.expire_tokens();
    provision(&valid).await.unwrap();
    let error = provision(&client("wrong")).await.unwrap_err();
    assert!(
        matches!(error.kind, VncErrorKind::Unauthorised { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn errors_of_simulator_are_classified() {
    let (_server, client) = start(Options::default()).await;
    provision(&client).await.unwrap();
    let kind = async |result: Result<uuid::Uuid, VncError>| result.unwrap_err().kind;
    let orphan = Project::named(name("nodomain:p"));
    let error = kind(client.create(&orphan).await).await;
    assert!(
        matches!(error, VncErrorKind::NoSuchParent { .. }),
        "{error}"
    );

    let mut ip = InstanceIp::named(name("ip-1"));
    ip.virtual_network_refs = vec![Ref::to(name("default-domain:mesos:blue"))];
    ip.instance_ip_address = Address(Some("10.40.0.7".parse().unwrap()));
    client.create(&ip).await.unwrap();
    ip.common.fq_name = name("ip-2");
    let error = kind(client.create(&ip).await).await;
    assert_eq!(error, VncErrorKind::AddressTaken);
    ip.instance_ip_address = Address(Some("9.9.9.9".parse().unwrap()));
    let error = kind(client.create(&ip).await).await;
    assert!(
        matches!(error, VncErrorKind::AddressOutside { .. }),
        "{error}"
    );
    ip.virtual_network_refs = vec![Ref::to(name("default-domain:mesos:red"))];
    client.create(&ip).await.unwrap_err();
}

#[tokio::test]
async fn list_pages_and_bulk_return_all_objects() {
    let (_server, client) = start(Options::default()).await;
    for index in 0..30 {
        let name = FqName::new([format!("vm-{index:02}")]);
        client.create(&VirtualMachine::named(name)).await.unwrap();
    }
    let all: Vec<VirtualMachine> = client.list(&Query::new().page(7)).await.unwrap();
    assert_eq!(all.len(), 30);
    let uuids: Vec<_> = all
        .iter()
        .filter_map(|machine| machine.common.uuid)
        .collect();
    let bulk: Vec<VirtualMachine> = client.list(&Query::new().uuids(uuids)).await.unwrap();
    assert_eq!(bulk.len(), 30);
    let one = Query::new().names([name("vm-03")]);
    assert_eq!(client.list::<VirtualMachine>(&one).await.unwrap().len(), 1);
    assert_eq!(client.count::<VirtualMachine>().await.unwrap(), 30);
}
