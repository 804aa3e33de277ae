//! Tests of single objects with recorded JSON of an R2005 API server.

use serde_json::{Value, json};

use super::*;

/// A recorded virtual-machine-interface.
const VMI: &str = r#"{"virtual-machine-interface": {"uuid": "777ac05d-da01-4d18-837a-f5b41f3b7a84", "name": "vmi-1", "fq_name": ["default-domain", "p1", "vmi-1"], "perms2": {"owner": "cloud-admin", "owner_access": 7, "global_access": 0, "share": []}, "virtual_network_refs": [{"to": ["default-domain", "p1", "blue"], "attr": null, "uuid": "e454ea1c-ae40-4740-9096-bdf63ed8030a", "href": "http://127.0.0.1:8082/virtual-network/e454ea1c-ae40-4740-9096-bdf63ed8030a"}], "virtual_machine_interface_mac_addresses": {"mac_address": ["02:77:7a:c0:5d:da"]}, "virtual_machine_interface_device_owner": "mesos", "routing_instance_refs": [{"to": ["default-domain", "p1", "blue", "blue"], "attr": {"direction": "both", "vlan_tag": null, "src_mac": null, "dst_mac": null, "mpls_label": null, "service_chain_address": null, "ipv6_service_chain_address": null, "protocol": null}, "uuid": "38576622-0f81-42a3-a523-a513d5a40bb5"}], "annotations": {"key_value_pair": [{"key": "index", "value": "0/1"}]}, "port_security_enabled": true, "virtual_machine_refs": [{"to": ["e33cd325-e13e-4334-a837-36be5ba45791"], "attr": null, "uuid": "e33cd325-e13e-4334-a837-36be5ba45791"}], "parent_type": "project", "display_name": "vmi-1", "id_perms": {"permissions": {"owner": "cloud-admin", "owner_access": 7, "group": "cloud-admin-group", "group_access": 7, "other_access": 7}, "uuid": {"uuid_mslong": 8609405146994134296, "uuid_lslong": 9474154920094169732}, "enable": true, "created": "2026-11-21T03:00:24.175796", "last_modified": "2026-11-21T03:00:24.177236", "description": null, "user_visible": true, "creator": null}, "href": "http://127.0.0.1:8082/virtual-machine-interface/777ac05d-da01-4d18-837a-f5b41f3b7a84"}}"#;

#[tokio::test]
async fn read_decodes_object() {
    let server = ScriptedServer::start(|_, _| ok(&VMI)).await;
    let client = client(&server);
    let vmi: VirtualMachineInterface = client.read(uuid(OTHER)).await.unwrap().unwrap();
    assert_eq!(vmi.common.fq_name.to_string(), "default-domain:p1:vmi-1");
    assert_eq!(vmi.common.annotations.get("index"), Some("0/1"));
    assert_eq!(vmi.virtual_machine_refs[0].uuid, Some(uuid(VM)));
    let macs = vmi.virtual_machine_interface_mac_addresses.unwrap();
    assert_eq!(macs.mac_address, ["02:77:7a:c0:5d:da"]);
    let created = vmi.common.id_perms.unwrap().created;
    assert_eq!(created.as_deref(), Some("2026-11-21T03:00:24.175796"));

    let options = ReadOptions {
        back_refs: true,
        fields: vec!["instance_ip_back_refs".to_owned()],
        ..ReadOptions::default()
    };
    client
        .read_with::<VirtualMachineInterface>(uuid(OTHER), &options)
        .await
        .unwrap();
    let paths: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(
        paths,
        [
            format!(
                "/virtual-machine-interface/{OTHER}?exclude_hrefs=true&exclude_back_refs=true&exclude_children=true"
            ),
            format!(
                "/virtual-machine-interface/{OTHER}?exclude_hrefs=true&exclude_children=true&fields=instance_ip_back_refs"
            ),
        ]
    );
}

/// Every field, also of nested objects, may be null.
#[test]
fn null_field_equals_absent_field() {
    fn nulls<T: Object + Default + PartialEq + std::fmt::Debug>(fields: &[&str]) {
        let fields: serde_json::Map<String, Value> = fields
            .iter()
            .chain(&[
                "uuid",
                "fq_name",
                "parent_type",
                "parent_uuid",
                "display_name",
            ])
            .chain(&["annotations", "id_perms"])
            .map(|field| ((*field).to_owned(), Value::Null))
            .collect();
        let object: T = serde_json::from_value(Value::Object(fields)).unwrap();
        assert_eq!(object, T::default());
    }
    nulls::<VirtualNetwork>(&[
        "network_ipam_refs",
        "virtual_network_properties",
        "router_external",
    ]);
    nulls::<VirtualMachineInterface>(&[
        "virtual_machine_interface_bindings",
        "security_group_refs",
    ]);
    nulls::<InstanceIp>(&["instance_ip_address", "subnet_uuid"]);
    nulls::<SecurityGroup>(&["security_group_entries"]);
    nulls::<FloatingIp>(&["floating_ip_port_mappings"]);

    let rule: PolicyRule = serde_json::from_value(json!({
        "src_addresses": [{ "subnet": null, "security_group": "local" }],
        "src_ports": [{ "start_port": null, "end_port": 80 }], "dst_ports": null,
    }))
    .unwrap();
    assert_eq!(rule.src_ports[0].start_port, -1);
    let reference: Ref<PolicyAttachment> =
        serde_json::from_value(json!({ "to": null, "attr": { "sequence": { "major": null } } }))
            .unwrap();
    assert_eq!(reference.attr.unwrap().sequence.unwrap().major, 0);
    let ip: InstanceIp =
        serde_json::from_value(json!({ "instance_ip_address": "not an address" })).unwrap();
    assert_eq!(ip.instance_ip_address.0, None);
}

#[test]
fn unset_fields_are_not_serialized() {
    let mut network = VirtualNetwork::named("default-domain:p1:vnf".parse().unwrap());
    network.address_allocation_mode = Some("flat-subnet-only".to_owned());
    network.virtual_network_properties = Some(VirtualNetworkProperties {
        forwarding_mode: Some("l3".to_owned()),
        ..VirtualNetworkProperties::default()
    });
    network.network_ipam_refs = vec![Ref::with(
        "default-domain:p1:ipam-flat".parse().unwrap(),
        NetworkIpamSubnets::default(),
    )];
    // The recorded request.
    assert_eq!(
        serde_json::to_value(&network).unwrap(),
        json!({"fq_name": ["default-domain", "p1", "vnf"], "parent_type": "project", "address_allocation_mode": "flat-subnet-only", "virtual_network_properties": {"forwarding_mode": "l3"}, "network_ipam_refs": [{"to": ["default-domain", "p1", "ipam-flat"], "attr": {"ipam_subnets": []}}]})
    );
    let any_address = Prefix::of("0.0.0.0/0".parse().unwrap());
    assert_eq!(
        serde_json::to_value(&any_address).unwrap(),
        json!({"ip_prefix": "0.0.0.0", "ip_prefix_len": 0})
    );
    assert_eq!(any_address.network(), Some("0.0.0.0/0".parse().unwrap()));
    assert_eq!(
        serde_json::to_value(PolicyAttachment {
            sequence: Some(Sequence::default())
        })
        .unwrap(),
        json!({"sequence": {"major": 0, "minor": 0}})
    );
}

#[tokio::test]
async fn ensure_reports_differing_fields() {
    let server = ScriptedServer::start(|request, _| match request.line().as_str() {
        "POST /virtual-machine-interfaces" => Reply::Answer(
            409,
            format!("['default-domain', 'p1', 'vmi-1'] already exists with uuid: {OTHER}"),
        ),
        _ => ok(&VMI),
    })
    .await;
    let client = client(&server);
    let mut vmi = VirtualMachineInterface::named("default-domain:p1:vmi-1".parse().unwrap());
    vmi.virtual_network_refs = vec![Ref::to("default-domain:p1:blue".parse().unwrap())];
    vmi.common.annotations = [("index", "0/1")].into_iter().collect();
    let ensured = client.ensure(&vmi).await.unwrap();
    assert_eq!(ensured.uuid, uuid(OTHER));
    assert_eq!(
        ensured.existing.unwrap().differing_fields,
        Vec::<String>::new()
    );

    vmi.virtual_network_refs = vec![Ref::to("default-domain:p1:red".parse().unwrap())];
    vmi.common.annotations = [("index", "0/2")].into_iter().collect();
    vmi.common.uuid = Some(uuid(VM));
    let existing = client.ensure(&vmi).await.unwrap().existing.unwrap();
    assert_eq!(
        existing.differing_fields,
        ["annotations", "uuid", "virtual_network_refs"]
    );
}

#[tokio::test]
async fn ensure_same_uuid_with_other_name_fails() {
    let server = ScriptedServer::start(|request, _| match request.method.as_str() {
        "POST" => Reply::Answer(409, format!("{VM} already exists with fq_name: ['{VM}']")),
        _ => ok(&json!({ "virtual-machine": { "uuid": VM, "fq_name": [VM], "server_type": "container" } })),
    })
    .await;
    let client = client(&server);
    assert_eq!(
        client
            .ensure(&machine())
            .await
            .unwrap()
            .existing
            .unwrap()
            .differing_fields,
        Vec::<String>::new()
    );
    let mut other = machine();
    other.common.fq_name = FqName::new(["other"]);
    let error = client.ensure(&other).await.unwrap_err();
    assert!(error.to_string().contains("uuid is taken"), "{error}");
}

#[tokio::test]
async fn ensure_creates_after_concurrent_delete() {
    let server = ScriptedServer::start(|request, index| match (request.method.as_str(), index) {
        ("POST", 0) => Reply::Answer(409, format!("['{VM}'] already exists with uuid: {VM}")),
        ("POST", _) => created_reply(request),
        _ => Reply::Answer(404, format!("Unknown id: {VM}")),
    })
    .await;
    assert_eq!(
        client(&server).ensure(&machine()).await.unwrap().existing,
        None
    );
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn calls_send_expected_requests() {
    let server = ScriptedServer::start(|request, _| match request.path.as_str() {
        "/fqname-to-id" => ok(&json!({ "uuid": VM })),
        "/id-to-fqname" => ok(&json!({ "fq_name": ["d", "p"], "type": "project" })),
        _ => ok(&""),
    })
    .await;
    let client = client(&server);
    let (first, second) = (uuid(VM), uuid(OTHER));
    client
        .link::<VirtualRouter, VirtualMachine>(first, second)
        .await
        .unwrap();
    client
        .unlink::<VirtualRouter, VirtualMachine>(first, second)
        .await
        .unwrap();
    client.relax_for_delete(first, second).await.unwrap();
    let set = PropertyUpdate::Set {
        field: "annotations".to_owned(),
        key: "k".to_owned(),
        value: "v".to_owned(),
    };
    client.update_properties(first, &[set]).await.unwrap();
    let patch = Patch::new().set("security_group_refs", Vec::<Ref>::new());
    client
        .update::<VirtualMachineInterface>(first, patch)
        .await
        .unwrap();
    let name: FqName = "d:p".parse().unwrap();
    assert_eq!(client.id_of::<Project>(&name).await.unwrap(), Some(first));
    assert_eq!(
        client.name_of(first).await.unwrap(),
        Some(("project".to_owned(), name))
    );

    let requests: Vec<(String, Value)> = server
        .requests()
        .iter()
        .map(|request| (request.line(), request.json()))
        .collect();
    let expected = [
        (
            "POST /ref-update",
            json!({"type": "virtual-router", "uuid": VM, "ref-type": "virtual-machine", "ref-uuid": OTHER, "ref-fq-name": null, "operation": "ADD", "attr": null}),
        ),
        (
            "POST /ref-update",
            json!({"type": "virtual-router", "uuid": VM, "ref-type": "virtual-machine", "ref-uuid": OTHER, "ref-fq-name": null, "operation": "DELETE", "attr": null}),
        ),
        (
            "POST /ref-relax-for-delete",
            json!({"uuid": VM, "ref-uuid": OTHER}),
        ),
        (
            "POST /prop-collection-update",
            json!({"uuid": VM, "updates": [{"field": "annotations", "operation": "set", "value": {"key": "k", "value": "v"}, "position": "k"}]}),
        ),
        (
            &format!("PUT /virtual-machine-interface/{VM}"),
            json!({"virtual-machine-interface": {"security_group_refs": []}}),
        ),
        (
            "POST /fqname-to-id",
            json!({"type": "project", "fq_name": ["d", "p"]}),
        ),
        ("POST /id-to-fqname", json!({"uuid": VM})),
    ];
    for (request, (line, body)) in requests.iter().zip(&expected) {
        assert_eq!((request.0.as_str(), &request.1), (*line, body));
    }
    assert_eq!(requests.len(), expected.len());
}
