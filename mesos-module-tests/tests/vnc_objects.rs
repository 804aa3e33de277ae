//! Objects in the simulated VNC API server, beyond the recorded requests: addresses, pages,
//! references and quotas.

mod vnc_support;

use contrail_mesos_sim::vnc::Options;
use serde_json::{Value, json};
use vnc_support::{Api, subnet};

#[tokio::test]
async fn addresses_are_allocated_and_released() {
    let api = Api::new(Options::default()).await;
    // A subnet of two addresses is refused. One of four has no address for an interface.
    let tiny = api.network("tiny", json!([subnet("10.0.0.0", 31)])).await;
    assert_eq!(tiny.unwrap_err().0, 500);
    api.network("small", json!([subnet("10.0.0.0", 30)]))
        .await
        .unwrap();
    let none = api.address("none", "small", json!({})).await;
    assert_eq!(none.unwrap_err().0, 400);
    let mut second = subnet("fd00:1::", 120);
    second["addr_from_start"] = true.into();
    let network = api
        .network("vn", json!([subnet("10.0.0.0", 29), second.clone()]))
        .await
        .unwrap();
    for (name, with, address) in [
        ("a", json!({}), "10.0.0.4"),
        ("b", json!({"instance_ip_family": "v6"}), "fd00:1::3"),
        ("c", json!({"instance_ip_family": "v4"}), "10.0.0.3"),
        ("d", json!({"instance_ip_address": "10.0.0.1"}), "10.0.0.1"),
        ("e", json!({}), "10.0.0.2"),
        // The first subnet is exhausted, so the second one is used.
        ("f", json!({}), "fd00:1::4"),
    ] {
        assert_eq!(
            api.address(name, "vn", with).await.unwrap(),
            address,
            "{name}"
        );
    }
    let (status, text) = api
        .address("g", "vn", json!({"instance_ip_family": "v4"}))
        .await
        .unwrap_err();
    assert_eq!(status, 400);
    assert!(text.contains("has exhausted subnet("), "{text}");
    let listed = api
        .get("/instance-ips?filters=instance_ip_address==\"10.0.0.3\"")
        .await;
    let uuid = listed["instance-ips"][0]["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(api.delete("instance-ip", &uuid).await.0, 200);
    assert_eq!(api.address("h", "vn", json!({})).await.unwrap(), "10.0.0.3");

    // A subnet cannot be removed while its addresses are in use, and its gateway cannot change.
    let refs = |subnets: Value| {
        json!({"network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": subnets}
        }]})
    };
    let (status, text) = api
        .update(
            "virtual-network",
            &network,
            refs(json!([subnet("10.9.0.0", 24)])),
        )
        .await;
    assert_eq!(status, 409);
    assert!(text.contains("Cannot Delete IP Block, IP("), "{text}");
    let ipam = api
        .get("/network-ipams?fq_names=default-domain:default-project:default-network-ipam")
        .await;
    let mut moved = subnet("10.0.0.0", 29);
    moved["default_gateway"] = "10.0.0.1".into();
    let mut body = refs(json!([moved, second]));
    body["network_ipam_refs"][0]["uuid"] = ipam["network-ipams"][0]["uuid"].clone();
    let (status, text) = api.update("virtual-network", &network, body).await;
    let expected = "default gateway change is not allowed orig:10.0.0.6, new: 10.0.0.1";
    assert_eq!((status, text.as_str()), (400, expected));
}

#[tokio::test]
async fn flat_subnets_are_shared_by_networks() {
    let api = Api::new(Options::default()).await;
    let name = ["default-domain", "default-project", "flat"];
    api.create(
        "network-ipam",
        json!({
            "fq_name": name, "parent_type": "project", "ipam_subnet_method": "flat-subnet",
            "ipam_subnets": {"subnets": [subnet("10.40.0.0", 29)]}
        }),
    )
    .await
    .unwrap();
    let flat = |network: &str, mode: Option<&str>| {
        json!({
            "fq_name": ["default-domain", "default-project", network], "parent_type": "project",
            "address_allocation_mode": "flat-subnet-only",
            "virtual_network_properties": {"forwarding_mode": mode},
            "network_ipam_refs": [{"to": name, "attr": {"ipam_subnets": []}}]
        })
    };
    let refusal = api
        .create("virtual-network", flat("one", None))
        .await
        .unwrap_err();
    assert_eq!(
        refusal,
        (
            400,
            "flat-subnet is allowed only with l3 network".to_owned()
        )
    );
    for network in ["one", "two"] {
        api.create("virtual-network", flat(network, Some("l3")))
            .await
            .unwrap();
    }
    assert_eq!(
        api.address("a", "one", json!({})).await.unwrap(),
        "10.40.0.4"
    );
    assert_eq!(
        api.address("b", "two", json!({})).await.unwrap(),
        "10.40.0.3"
    );
    let used = json!({"instance_ip_address": "10.40.0.4"});
    let refusal = api.address("c", "two", used).await.unwrap_err();
    assert_eq!(refusal, (409, "IP address already in use".to_owned()));
}

/// A floating IP without a pool, as a child of an instance-ip, distributes connections to a virtual
/// address over tasks.
#[tokio::test]
async fn floating_ip_can_be_child_of_an_instance_ip() {
    let api = Api::new(Options::default()).await;
    api.network("vn", json!([subnet("10.0.0.0", 24)]))
        .await
        .unwrap();
    api.address("vip", "vn", json!({})).await.unwrap();
    let uuid = "0b4cd8ec-8a6c-4d5c-8d6b-9b1a6a1a1f00";
    let created = api
        .create(
            "floating-ip",
            json!({
                "fq_name": ["vip", uuid], "uuid": uuid, "parent_type": "instance-ip",
                "floating_ip_address": "10.0.0.252", "floating_ip_traffic_direction": "ingress",
                "floating_ip_port_mappings_enable": true,
                "floating_ip_port_mappings": {"port_mappings": [
                    {"protocol": "TCP", "src_port": 80, "dst_port": 8080}
                ]},
                "project_refs": [{"to": ["default-domain", "default-project"]}]
            }),
        )
        .await;
    assert_eq!(created.as_deref(), Ok(uuid));
    let mut body = json!({"floating_ip_traffic_direction": "sideways"});
    let (status, text) = api.update("floating-ip", uuid, body.clone()).await;
    assert_eq!(status, 400);
    assert!(
        text.ends_with("value must be one of ['ingress', 'egress', 'both']"),
        "{text}"
    );
    body = json!({"floating_ip_port_mappings": {"port_mapping": []}});
    let (status, text) = api.update("floating-ip", uuid, body).await;
    assert_eq!(status, 400);
    assert!(text.contains("does not have field port_mapping"), "{text}");
    assert_eq!(api.delete("floating-ip", uuid).await.0, 200);
    assert_eq!(api.server.addresses().len(), 1);
}

#[tokio::test]
async fn paged_list_ends() {
    let api = Api::new(Options::default()).await;
    for number in 0..5 {
        let body = json!({"fq_name": [format!("vm-{number}")]});
        api.create("virtual-machine", body).await.unwrap();
    }
    let (mut marker, mut listed) = (String::new(), Vec::new());
    loop {
        let path = format!("/virtual-machines?page_limit=2&page_marker={marker}");
        let page = api.get(&path).await;
        let items = page["virtual-machines"].as_array().unwrap();
        listed.extend(
            items
                .iter()
                .map(|item| item["fq_name"][0].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["marker"].as_str() else {
            break;
        };
        next.clone_into(&mut marker);
    }
    assert_eq!(listed, ["vm-0", "vm-1", "vm-2", "vm-3", "vm-4"]);
}

#[tokio::test]
async fn references_by_uuid_nulls_and_quotas_are_handled() {
    let api = Api::new(Options::default()).await;
    let body = json!({"fq_name": ["i"], "virtual_network_refs": [{"uuid": "x"}]});
    let refusal = api.create("instance-ip", body).await.unwrap_err();
    assert_eq!(refusal, (500, "KeyError: 'to'".to_owned()));
    let machine = api
        .create("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    let (status, _) = api
        .update("virtual-machine", &machine, json!({"display_name": null}))
        .await;
    assert_eq!(status, 200);
    let read = api.get(&format!("/virtual-machine/{machine}")).await;
    assert_eq!(read["virtual-machine"].get("display_name"), None);

    let body = json!({
        "fq_name": ["default-domain", "p"], "parent_type": "domain",
        "quota": {"security_group": 0}
    });
    api.create("project", body).await.unwrap();
    let group = json!({"fq_name": ["default-domain", "p", "g"], "parent_type": "project"});
    let refusal = api.create("security-group", group).await.unwrap_err();
    assert_eq!(refusal.0, 412);
}

#[tokio::test]
async fn relaxed_reference_does_not_block_deletion_of_its_target() {
    let api = Api::new(Options::default()).await;
    let name = ["default-global-system-config", "n"];
    let body = json!({"fq_name": name, "parent_type": "global-system-config"});
    let router = api.create("virtual-router", body).await.unwrap();
    let machine = api
        .create("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    let link = json!({
        "type": "virtual-router", "uuid": router, "ref-type": "virtual-machine",
        "ref-uuid": machine, "operation": "ADD"
    });
    assert_eq!(api.request("POST", "/ref-update", Some(&link)).await.0, 200);
    assert_eq!(api.delete("virtual-machine", &machine).await.0, 409);
    let relax = json!({"uuid": router, "ref-uuid": machine});
    assert_eq!(
        api.request("POST", "/ref-relax-for-delete", Some(&relax))
            .await
            .0,
        200
    );
    assert_eq!(api.delete("virtual-machine", &machine).await.0, 200);
    let read = api.get(&format!("/virtual-router/{router}")).await;
    assert_eq!(read["virtual-router"].get("virtual_machine_refs"), None);
}
