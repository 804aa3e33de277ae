//! The configuration as an agent sees it: a mirror of the API server's objects.
//!
//! The mirror holds every object of the followed types, as addresses of security groups and
//! locations of other virtual machines come from all hosts. What the agent shows is limited to the
//! virtual machines that its own virtual-router refers to: [`Config::interfaces`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};
use uuid::Uuid;

/// The types that an agent follows.
pub(crate) const FOLLOWED_KINDS: [&str; 12] = [
    "virtual-router",
    "virtual-machine",
    "virtual-machine-interface",
    "virtual-network",
    "network-ipam",
    "instance-ip",
    "floating-ip",
    "floating-ip-pool",
    "security-group",
    "network-policy",
    "global-vrouter-config",
    ROUTING_INSTANCE_KIND,
];
/// The type whose changes have an additional delay.
pub(crate) const ADDRESS_KIND: &str = "instance-ip";
const ROUTING_INSTANCE_KIND: &str = "routing-instance";
/// The VLAN id of an interface without a VLAN.
const NO_VLAN: u64 = 65535;

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) kind: String,
    pub(crate) uuid: Uuid,
    pub(crate) fq_name: Vec<String>,
    pub(crate) parent: Option<Uuid>,
    pub(crate) fields: Map<String, Value>,
    refs: Vec<(Uuid, Value)>,
}

/// A subnet of a virtual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) net: IpNet,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) dns: Option<IpAddr>,
}

/// All objects.
#[derive(Default)]
pub(crate) struct Config {
    objects: HashMap<Uuid, Object>,
    referrers: HashMap<Uuid, BTreeSet<Uuid>>,
    kinds: BTreeMap<String, BTreeSet<Uuid>>,
}

impl Object {
    /// Reads an object as the API server sends it.
    pub(crate) fn read(kind: String, fields: Map<String, Value>) -> Option<Self> {
        let refs = fields
            .iter()
            .filter(|(name, _)| name.ends_with("_refs"))
            .filter_map(|(_, refs)| refs.as_array())
            .flatten()
            .filter_map(|reference| Some((uuid(&reference["uuid"])?, reference["attr"].clone())))
            .collect();
        Some(Self {
            kind,
            uuid: uuid(fields.get("uuid")?)?,
            fq_name: strings(fields.get("fq_name")?),
            parent: fields.get("parent_uuid").and_then(uuid),
            refs,
            fields,
        })
    }

    pub(crate) fn field(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }

    pub(crate) fn name(&self) -> String {
        self.fq_name.join(":")
    }

    /// The address in a field.
    pub(crate) fn address(&self, field: &str) -> Option<IpAddr> {
        self.field(field).as_str()?.parse().ok()
    }

    /// An interface's MAC address.
    pub(crate) fn mac(&self) -> Option<&str> {
        self.field("virtual_machine_interface_mac_addresses")["mac_address"][0].as_str()
    }

    /// An interface's VLAN.
    pub(crate) fn vlan(&self) -> u64 {
        let properties = self.field("virtual_machine_interface_properties");
        let tag = properties["sub_interface_vlan_tag"].as_u64();
        tag.filter(|tag| *tag != 0).unwrap_or(NO_VLAN)
    }
}

impl Config {
    /// Inserts or replaces an object.
    pub(crate) fn put(&mut self, object: Object) {
        self.remove(object.uuid);
        for (to, _) in &object.refs {
            self.referrers.entry(*to).or_default().insert(object.uuid);
        }
        let kind = self.kinds.entry(object.kind.clone()).or_default();
        kind.insert(object.uuid);
        self.objects.insert(object.uuid, object);
    }

    /// Removes an object.
    pub(crate) fn remove(&mut self, uuid: Uuid) {
        let Some(object) = self.objects.remove(&uuid) else {
            return;
        };
        for (to, _) in &object.refs {
            if let Some(from) = self.referrers.get_mut(to) {
                from.remove(&uuid);
                if from.is_empty() {
                    self.referrers.remove(to);
                }
            }
        }
        if let Some(kind) = self.kinds.get_mut(&object.kind) {
            kind.remove(&uuid);
        }
    }

    /// Replaces all addresses, or all other objects.
    pub(crate) fn replace(&mut self, addresses: bool, objects: Vec<Object>) {
        let new: BTreeSet<_> = objects.iter().map(|object| object.uuid).collect();
        let old: Vec<_> = self
            .objects
            .values()
            .filter(|object| {
                (object.kind == ADDRESS_KIND) == addresses && !new.contains(&object.uuid)
            })
            .map(|object| object.uuid)
            .collect();
        for uuid in old {
            self.remove(uuid);
        }
        for object in objects {
            self.put(object);
        }
    }

    pub(crate) fn get(&self, uuid: Uuid) -> Option<&Object> {
        self.objects.get(&uuid)
    }

    pub(crate) fn of_kind<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Object> + use<'a> {
        let uuids = self.kinds.get(kind).into_iter().flatten();
        uuids.filter_map(|uuid| self.get(*uuid))
    }

    /// The targets of an object's references to one type, with the attributes.
    pub(crate) fn targets<'a>(
        &'a self,
        object: &'a Object,
        kind: &'a str,
    ) -> impl Iterator<Item = (&'a Object, &'a Value)> {
        object.refs.iter().filter_map(move |(to, attr)| {
            let target = self.get(*to)?;
            (target.kind == kind).then_some((target, attr))
        })
    }

    /// The objects of one type that refer to an object, by uuid.
    pub(crate) fn referrers<'a>(
        &'a self,
        uuid: Uuid,
        kind: &'a str,
    ) -> impl Iterator<Item = &'a Object> {
        let from = self.referrers.get(&uuid).into_iter().flatten();
        from.filter_map(|uuid| self.get(*uuid))
            .filter(move |object| object.kind == kind)
    }

    /// The virtual-router of this name.
    pub(crate) fn router(&self, name: &str) -> Option<&Object> {
        let mut routers = self.of_kind("virtual-router");
        routers.find(|router| router.fq_name.last().is_some_and(|last| last == name))
    }

    /// Whether the virtual-router of this name refers to a virtual machine.
    pub(crate) fn is_linked(&self, router: &str, machine: Uuid) -> bool {
        let router = self.router(router);
        router.is_some_and(|router| router.refs.iter().any(|(to, _)| *to == machine))
    }

    /// The virtual machines that the virtual-router of this name refers to.
    pub(crate) fn machines(&self, router: &str) -> BTreeSet<Uuid> {
        let router = self.router(router).into_iter();
        router
            .flat_map(|router| self.targets(router, "virtual-machine"))
            .map(|(machine, _)| machine.uuid)
            .collect()
    }

    /// The interfaces of a virtual machine, by uuid.
    pub(crate) fn interfaces(&self, machine: Uuid) -> Vec<&Object> {
        self.referrers(machine, "virtual-machine-interface")
            .collect()
    }

    /// An interface's virtual network.
    pub(crate) fn network<'a>(&'a self, interface: &'a Object) -> Option<&'a Object> {
        let mut networks = self.targets(interface, "virtual-network");
        networks.next().map(|(network, _)| network)
    }

    /// An interface's addresses, IPv4 first.
    pub(crate) fn addresses(&self, interface: Uuid) -> Vec<IpAddr> {
        let instances = self.referrers(interface, ADDRESS_KIND);
        let mut addresses: Vec<_> = instances
            .filter_map(|instance| instance.address("instance_ip_address"))
            .collect();
        addresses.sort();
        addresses
    }

    /// A network's subnets: its own, and those of its flat ipams.
    pub(crate) fn subnets(&self, network: &Object) -> Vec<Subnet> {
        let mut subnets = vec![];
        for (ipam, attr) in self.targets(network, "network-ipam") {
            let own = attr["ipam_subnets"].as_array().into_iter().flatten();
            subnets.extend(own.filter_map(subnet));
            let flat = ipam.field("ipam_subnet_method") == "flat-subnet";
            let shared = ipam.field("ipam_subnets")["subnets"].as_array();
            subnets.extend(
                shared
                    .filter(|_| flat)
                    .into_iter()
                    .flatten()
                    .filter_map(subnet),
            );
        }
        subnets
    }

    /// The most specific subnet of a network that contains an address.
    pub(crate) fn subnet(&self, network: &Object, address: IpAddr) -> Option<Subnet> {
        let subnets = self.subnets(network).into_iter();
        subnets
            .filter(|subnet| subnet.net.contains(&address))
            .max_by_key(|subnet| subnet.net.prefix_len())
    }
}

fn subnet(value: &Value) -> Option<Subnet> {
    let address = |name: &str| {
        let address = value[name].as_str()?.parse::<IpAddr>().ok()?;
        Some(address).filter(|address| !address.is_unspecified())
    };
    Some(Subnet {
        net: prefix(&value["subnet"])?,
        gateway: address("default_gateway"),
        dns: address("dns_server_address"),
    })
}

/// `{"ip_prefix": …, "ip_prefix_len": …}`
pub(crate) fn prefix(value: &Value) -> Option<IpNet> {
    let address = value["ip_prefix"].as_str()?.parse().ok()?;
    let length = value["ip_prefix_len"].as_u64()?.try_into().ok()?;
    IpNet::new(address, length).ok().map(|net| net.trunc())
}

pub(crate) fn uuid(value: &Value) -> Option<Uuid> {
    value.as_str()?.parse().ok()
}

pub(crate) fn strings(value: &Value) -> Vec<String> {
    let parts = value.as_array().into_iter().flatten();
    parts
        .filter_map(|part| part.as_str().map(str::to_owned))
        .collect()
}
