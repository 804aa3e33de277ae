"""Drives a VNC API server with the official client, as an orchestrator would.

Arguments: host, port, and the port of a second server that asks for tokens. Ends with "done".
"""

import sys

import vnc_api.vnc_api as vnc
from vnc_api import exceptions as errors


def refused(error, call, *arguments, **named):
    """The text of the error that this call has to end in."""
    try:
        call(*arguments, **named)
    except error as problem:
        return str(problem)
    raise AssertionError("%s%r was not refused" % (call, arguments))


def drive(api):
    # Domain, project, network.
    domain = vnc.Domain("d1")
    api.domain_create(domain)
    project = vnc.Project("p1", parent_obj=domain)
    api.project_create(project)
    assert api.project_read(fq_name=["d1", "p1"]).uuid == project.uuid
    assert "already exists" in refused(errors.RefsExistError, api.project_create,
                                       vnc.Project("p1", parent_obj=domain))
    refused(errors.NoIdError, api.project_read, fq_name=["d1", "nobody"])
    orphan = vnc.Project("p2", parent_type="domain", fq_name=["nowhere", "p2"])
    assert "does not exist" in refused(errors.BadRequest, api.project_create, orphan)

    ipam = vnc.NetworkIpam("ipam", parent_obj=project)
    api.network_ipam_create(ipam)
    blue = vnc.VirtualNetwork("blue", parent_obj=project)
    subnet = vnc.IpamSubnetType(subnet=vnc.SubnetType("10.32.0.0", 29))
    blue.add_network_ipam(ipam, vnc.VnSubnetsType([subnet]))
    api.virtual_network_create(blue)
    blue = api.virtual_network_read(id=blue.uuid)
    attr = blue.get_network_ipam_refs()[0]["attr"]
    assert attr.ipam_subnets[0].default_gateway == "10.32.0.6", attr
    assert blue.get_routing_instances()[0]["to"] == ["d1", "p1", "blue", "blue"]

    bad = vnc.VirtualNetwork("bad", parent_obj=project)
    bad.set_address_allocation_mode("flat-subnet-onyl")
    assert "must be one of" in refused(errors.BadRequest, api.virtual_network_create, bad)

    # Machine, interface, addresses.
    machine = vnc.VirtualMachine("task-1")
    machine.set_annotations(vnc.KeyValuePairs([vnc.KeyValuePair("owner", "mesos")]))
    api.virtual_machine_create(machine)
    port = vnc.VirtualMachineInterface("port-1", parent_obj=project)
    port.set_virtual_network(blue)
    port.set_virtual_machine(machine)
    port.set_annotations(vnc.KeyValuePairs([vnc.KeyValuePair("index", "0/1")]))
    api.virtual_machine_interface_create(port)
    port = api.virtual_machine_interface_read(id=port.uuid)
    mac = port.get_virtual_machine_interface_mac_addresses().mac_address[0]
    assert mac.startswith("02:" + port.uuid[:2]), mac

    def address(name, **wishes):
        instance = vnc.InstanceIp(name, **wishes)
        instance.set_virtual_network(blue)
        instance.set_virtual_machine_interface(port)
        api.instance_ip_create(instance)
        return api.instance_ip_read(id=instance.uuid)

    first = address("ip-1")
    assert first.get_instance_ip_address() == "10.32.0.4", first.get_instance_ip_address()
    assert "already in use" in refused(errors.RefsExistError, address, "ip-2",
                                       instance_ip_address="10.32.0.4")
    assert "exhausted" in refused(errors.BadRequest, address, "ip-2",
                                  instance_ip_address="9.9.9.9")
    others = [address("more-%d" % number) for number in range(3)]
    assert others[-1].get_instance_ip_address() == "10.32.0.1"
    assert "exhausted" in refused(errors.BadRequest, address, "too-many")
    for other in others:
        api.instance_ip_delete(id=other.uuid)

    # References, and what they forbid.
    system = api.global_system_config_read(fq_name=["default-global-system-config"])
    router = vnc.VirtualRouter("node1", parent_obj=system, virtual_router_ip_address="10.0.0.1")
    api.virtual_router_create(router)
    for _ in range(2):
        api.ref_update("virtual-router", router.uuid, "virtual-machine", machine.uuid,
                       None, "ADD")
    machine = api.virtual_machine_read(id=machine.uuid)
    assert machine.get_virtual_router_back_refs()[0]["uuid"] == router.uuid
    assert "still referred" in refused(errors.RefsExistError, api.virtual_machine_delete,
                                       id=machine.uuid)
    assert "still present" in refused(errors.RefsExistError, api.project_delete, id=project.uuid)
    refused(errors.NoIdError, api.ref_update, "virtual-router", router.uuid, "virtual-machine",
            project.uuid.replace(project.uuid[:8], "00000000"), None, "ADD")

    # Changes.
    machine.set_display_name("renamed")
    api.virtual_machine_update(machine)
    assert api.virtual_machine_read(id=machine.uuid).display_name == "renamed"
    port.add_annotations(vnc.KeyValuePair("host", "node1"))
    api.virtual_machine_interface_update(port)
    pairs = api.virtual_machine_interface_read(id=port.uuid).get_annotations().key_value_pair
    assert sorted(pair.key for pair in pairs) == ["host", "index"], pairs
    port.del_annotations("host")
    api.virtual_machine_interface_update(port)

    # Lists: by parent, by what is referred to, with filters, in bulk, in pages.
    ports = api.virtual_machine_interfaces_list(parent_id=project.uuid)
    assert [port["fq_name"][-1] for port in ports["virtual-machine-interfaces"]] == ["port-1"]
    ports = api.virtual_machine_interfaces_list(back_ref_id=machine.uuid, detail=True)
    assert [one.uuid for one in ports] == [port.uuid]
    found = api.virtual_machines_list(filters={"display_name": "renamed"})
    assert len(found["virtual-machines"]) == 1, found
    many = [vnc.VirtualMachine("m-%03d" % number) for number in range(40)]
    for one in many:
        api.virtual_machine_create(one)
    bulk = api.virtual_machines_list(obj_uuids=[one.uuid for one in many])
    assert len(bulk["virtual-machines"]) == 40
    assert api.virtual_machines_list(count=True)["virtual-machines"]["count"] == 41
    for one in many:
        api.virtual_machine_delete(id=one.uuid)

    # A floating address and a security group.
    pool = vnc.FloatingIpPool("pool", parent_obj=blue)
    api.floating_ip_pool_create(pool)
    floating = vnc.FloatingIp("fip", parent_obj=pool)
    floating.set_project(project)
    floating.set_virtual_machine_interface(port)
    api.floating_ip_create(floating)
    assert api.floating_ip_read(id=floating.uuid).get_floating_ip_address() == "10.32.0.3"
    rule = vnc.PolicyRuleType(
        direction=">", protocol="tcp", ethertype="IPv4",
        src_addresses=[vnc.AddressType(subnet=vnc.SubnetType("0.0.0.0", 0))],
        src_ports=[vnc.PortType(0, 65535)], dst_ports=[vnc.PortType(80, 80)],
        dst_addresses=[vnc.AddressType(security_group="local")])
    group = vnc.SecurityGroup("web", parent_obj=project)
    group.set_security_group_entries(vnc.PolicyEntriesType([rule]))
    api.security_group_create(group)
    assert api.security_group_read(id=group.uuid).get_security_group_id() >= 8000000
    port.set_security_group(group)
    api.virtual_machine_interface_update(port)
    assert "still referred" in refused(errors.RefsExistError, api.security_group_delete,
                                       id=group.uuid)

    # Names and ids, and keys.
    assert api.fq_name_to_id("virtual-network", ["d1", "p1", "blue"]) == blue.uuid
    assert api.id_to_fq_name(blue.uuid) == ["d1", "p1", "blue"]
    refused(errors.NoIdError, api.fq_name_to_id, "virtual-network", ["d1", "p1", "green"])
    api.kv_store("key", "value")
    assert api.kv_retrieve("key") == "value"
    api.kv_delete("key")

    # Everything goes away again, in the order that the server enforces.
    api.floating_ip_delete(id=floating.uuid)
    api.floating_ip_pool_delete(id=pool.uuid)
    api.instance_ip_delete(id=first.uuid)
    refused(errors.NoIdError, api.instance_ip_delete, id=first.uuid)
    api.virtual_machine_interface_delete(id=port.uuid)
    api.ref_update("virtual-router", router.uuid, "virtual-machine", machine.uuid, None, "DELETE")
    api.virtual_router_delete(id=router.uuid)
    api.virtual_machine_delete(id=machine.uuid)
    api.security_group_delete(id=group.uuid)
    api.virtual_network_delete(id=blue.uuid)
    api.network_ipam_delete(id=ipam.uuid)
    api.project_delete(id=project.uuid)
    api.domain_delete(id=domain.uuid)


def main(host, port, guarded):
    drive(vnc.VncApi(api_server_host=host, api_server_port=port, auth_type="noauth"))

    def login(password):
        return vnc.VncApi("admin", password, "admin", api_server_host=host,
                          api_server_port=guarded, auth_type="keystone", auth_host=host,
                          auth_port=guarded, auth_protocol="http")

    drive(login("secret"))
    stranger = login("wrong")
    assert "Authentication Failure" in refused(RuntimeError, stranger.domains_list)
    print("done")


main(*sys.argv[1:])
