//! What the simulated VNC API server does with objects that was not recorded: addresses of every
//! sort, pages, references, quotas.

mod vnc_support;

use contrail_mesos_sim::vnc::Options;
use serde_json::{Value, json};
use vnc_support::{Api, subnet};

#[tokio::test]
async fn addresses_are_allocated_and_released() {
    let api = Api::new(Options::default()).await;
    // Two addresses are too few for a subnet; of four, none is left.
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
        // The first subnet is used up, so the second one's turn has come.
        ("f", json!({}), "fd00:1::4"),
    ] {
        assert_eq!(
            api.address(name, "vn", with).await.unwrap(),
            address,
            "{name}"
        );
    }
    let problem = api
        .address("g", "vn", json!({"instance_ip_family": "v4"}))
        .await;
    let problem = problem.unwrap_err();
    assert_eq!(problem.0, 400);
    assert!(problem.1.contains("has exhausted subnet("), "{}", problem.1);
    let taken = api
        .get("/instance-ips?filters=instance_ip_address==\"10.0.0.3\"")
        .await;
    let uuid = taken["instance-ips"][0]["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(api.delete("instance-ip", &uuid).await.0, 200);
    assert_eq!(api.address("h", "vn", json!({})).await.unwrap(), "10.0.0.3");

    // A subnet cannot go while its addresses are in use, and its gateway stays.
    let refs = |subnets: Value| {
        json!({"network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": subnets}
        }]})
    };
    let (status, text) = api
        .change(
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
    let (status, text) = api.change("virtual-network", &network, body).await;
    let refused = "default gateway change is not allowed orig:10.0.0.6, new: 10.0.0.1";
    assert_eq!((status, text.as_str()), (400, refused));
}

#[tokio::test]
async fn flat_subnets_are_shared_by_networks() {
    let api = Api::new(Options::default()).await;
    let name = ["default-domain", "default-project", "flat"];
    api.make(
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
    let refused = api
        .make("virtual-network", flat("one", None))
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        (
            400,
            "flat-subnet is allowed only with l3 network".to_owned()
        )
    );
    for network in ["one", "two"] {
        api.make("virtual-network", flat(network, Some("l3")))
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
    let asked = json!({"instance_ip_address": "10.40.0.4"});
    let refused = api.address("c", "two", asked).await.unwrap_err();
    assert_eq!(refused, (409, "IP address already in use".to_owned()));
}

/// What spreads connections to a virtual address over tasks: a floating IP beneath an
/// instance-ip, without a pool.
#[tokio::test]
async fn floating_ip_can_be_child_of_an_instance_ip() {
    let api = Api::new(Options::default()).await;
    api.network("vn", json!([subnet("10.0.0.0", 24)]))
        .await
        .unwrap();
    api.address("vip", "vn", json!({})).await.unwrap();
    let uuid = "0b4cd8ec-8a6c-4d5c-8d6b-9b1a6a1a1f00";
    let made = api
        .make(
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
    assert_eq!(made.as_deref(), Ok(uuid));
    let mut body = json!({"floating_ip_traffic_direction": "sideways"});
    let (status, text) = api.change("floating-ip", uuid, body.clone()).await;
    assert_eq!(status, 400);
    assert!(
        text.ends_with("value must be one of ['ingress', 'egress', 'both']"),
        "{text}"
    );
    body = json!({"floating_ip_port_mappings": {"port_mapping": []}});
    let (status, text) = api.change("floating-ip", uuid, body).await;
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
        api.make("virtual-machine", body).await.unwrap();
    }
    let (mut marker, mut seen) = (String::new(), Vec::new());
    loop {
        let path = format!("/virtual-machines?page_limit=2&page_marker={marker}");
        let page = api.get(&path).await;
        let items = page["virtual-machines"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|item| item["fq_name"][0].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["marker"].as_str() else {
            break;
        };
        next.clone_into(&mut marker);
    }
    assert_eq!(seen, ["vm-0", "vm-1", "vm-2", "vm-3", "vm-4"]);
}

#[tokio::test]
async fn references_by_uuid_nulls_and_quotas_are_handled() {
    let api = Api::new(Options::default()).await;
    let body = json!({"fq_name": ["i"], "virtual_network_refs": [{"uuid": "x"}]});
    let refused = api.make("instance-ip", body).await.unwrap_err();
    assert_eq!(refused, (500, "KeyError: 'to'".to_owned()));
    let machine = api
        .make("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    let (status, _) = api
        .change("virtual-machine", &machine, json!({"display_name": null}))
        .await;
    assert_eq!(status, 200);
    let read = api.get(&format!("/virtual-machine/{machine}")).await;
    assert_eq!(read["virtual-machine"].get("display_name"), None);

    let body = json!({
        "fq_name": ["default-domain", "p"], "parent_type": "domain",
        "quota": {"security_group": 0}
    });
    api.make("project", body).await.unwrap();
    let group = json!({"fq_name": ["default-domain", "p", "g"], "parent_type": "project"});
    let refused = api.make("security-group", group).await.unwrap_err();
    assert_eq!(refused.0, 412);
}

#[tokio::test]
async fn relaxed_reference_does_not_block_deletion_of_its_target() {
    let api = Api::new(Options::default()).await;
    let name = ["default-global-system-config", "n"];
    let router = json!({"fq_name": name, "parent_type": "global-system-config"});
    let router = api.make("virtual-router", router).await.unwrap();
    let machine = api
        .make("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    let link = json!({
        "type": "virtual-router", "uuid": router, "ref-type": "virtual-machine",
        "ref-uuid": machine, "operation": "ADD"
    });
    assert_eq!(api.ask("POST", "/ref-update", Some(&link)).await.0, 200);
    assert_eq!(api.delete("virtual-machine", &machine).await.0, 409);
    let relax = json!({"uuid": router, "ref-uuid": machine});
    assert_eq!(
        api.ask("POST", "/ref-relax-for-delete", Some(&relax))
            .await
            .0,
        200
    );
    assert_eq!(api.delete("virtual-machine", &machine).await.0, 200);
    let read = api.get(&format!("/virtual-router/{router}")).await;
    assert_eq!(read["virtual-router"].get("virtual_machine_refs"), None);
}
