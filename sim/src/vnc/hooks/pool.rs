//! Address allocation in a virtual network: from its own subnets, and from flat subnets of its
//! ipams.

use std::net::IpAddr;

use serde_json::Value;
use uuid::Uuid;

use crate::vnc::addresses::network as network_of;
use crate::vnc::db::Db;
use crate::vnc::python_repr;
use crate::vnc::response::{ApiError, Outcome};
use crate::vnc::schema::schema;
use crate::vnc::store::Object;

/// An allocated address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allocation {
    /// None where the named subnet is used up, which the real server reports as a success.
    pub(crate) address: Option<IpAddr>,
    pub(crate) subnet_uuid: Option<String>,
}

/// A request for an address.
#[derive(Clone, Copy, Default)]
pub(crate) struct AddressRequest<'a> {
    pub(crate) address: Option<IpAddr>,
    pub(crate) subnet: Option<&'a str>,
    /// 4 or 6.
    pub(crate) version: Option<u8>,
    /// The network's preference of its own or flat subnets. Only instance-ips have it.
    pub(crate) mode: Option<&'a str>,
}

/// Why no address was allocated.
#[derive(Debug)]
pub(crate) enum AllocationError {
    /// The subnet does not belong to the network.
    InvalidSubnet(String),
    /// These subnets have no free address.
    Exhausted(Vec<String>),
    /// The network has no subnets of its own.
    Absent,
}

/// A network's reference to an ipam.
struct Ipam {
    uuid: Uuid,
    subnets: Vec<Value>,
}

impl AllocationError {
    /// The response of `ip-alloc`.
    pub(crate) fn error(&self, network: &[String]) -> ApiError {
        match self {
            Self::InvalidSubnet(_) | Self::Absent => ApiError::internal(),
            Self::Exhausted(_) => ApiError::new(409, self.text(network)),
        }
    }

    /// The real server's message.
    pub(crate) fn text(&self, network: &[String]) -> String {
        let name = python_repr::names(network);
        match self {
            Self::InvalidSubnet(subnet) => {
                format!("Virtual-Network({name}) has invalid subnet({subnet})")
            }
            Self::Exhausted(tried) => {
                let tried = python_repr::names(tried);
                format!("Virtual-Network({name}) has exhausted subnet({tried})")
            }
            Self::Absent => format!("Virtual-Network({name}) has no defined subnets"),
        }
    }
}

impl Ipam {
    /// Flat subnets belong to the ipam; the network only has a uuid for them.
    fn is_flat(&self) -> bool {
        let first = self.subnets.first();
        first.is_some_and(|first| first["subnet"].get("ip_prefix").is_none())
    }

    fn flat_uuid(&self) -> Option<String> {
        self.subnets[0]["subnet_uuid"].as_str().map(str::to_owned)
    }
}

fn ipams(db: &Db, network: &Object) -> Vec<Ipam> {
    let Some(kind) = schema().id("network-ipam") else {
        return Vec::new();
    };
    db.store
        .targets(network, kind)
        .map(|(ipam, attr)| Ipam {
            uuid: ipam.uuid,
            subnets: attr["ipam_subnets"].as_array().cloned().unwrap_or_default(),
        })
        .collect()
}

fn version(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// Whether an address of this network is allocated or reserved.
pub(crate) fn is_unavailable(db: &Db, network: &Object, address: IpAddr) -> Outcome<bool> {
    let ipams = ipams(db, network);
    if ipams.is_empty() {
        return Err(ApiError::key_error("network_ipam_refs"));
    }
    let owners = ipams.iter().map(|ipam| ipam.uuid).chain([network.uuid]);
    let unavailable = owners
        .flat_map(|owner| db.pools.of(owner))
        .find(|subnet| subnet.network.contains(&address))
        .is_some_and(|subnet| subnet.is_unavailable(address));
    Ok(unavailable)
}

/// Whether this is the gateway of a subnet of the network.
pub(crate) fn is_gateway(db: &Db, network: &Object, address: &str) -> bool {
    let is = |subnet: &Value| subnet["default_gateway"] == address;
    ipams(db, network).iter().any(|ipam| {
        let of_ipam = db
            .store
            .get(ipam.uuid)
            .and_then(|ipam| ipam.props.get("ipam_subnets"))
            .and_then(|subnets| subnets["subnets"].as_array());
        of_ipam.into_iter().flatten().any(is) || ipam.subnets.iter().any(is)
    })
}

/// Allocates an address of a network.
pub(crate) fn allocate(
    db: &mut Db,
    network: &Object,
    request: AddressRequest<'_>,
    holder: &str,
) -> Result<Allocation, AllocationError> {
    if request.address.is_some() || request.subnet.is_some() {
        return allocate_flat(db, network, request, holder)
            .or_else(|_| allocate_own(db, network, request, holder));
    }
    match request.mode {
        Some("flat-subnet-only") => allocate_flat(db, network, request, holder),
        Some("user-defined-subnet-only") => allocate_own(db, network, request, holder),
        Some("flat-subnet-preferred") => allocate_flat(db, network, request, holder)
            .or_else(|_| allocate_own(db, network, request, holder)),
        _ => allocate_own(db, network, request, holder)
            .or_else(|_| allocate_flat(db, network, request, holder)),
    }
}

fn allocate_flat(
    db: &mut Db,
    network: &Object,
    request: AddressRequest<'_>,
    holder: &str,
) -> Result<Allocation, AllocationError> {
    let mut tried = Vec::new();
    let mut found = false;
    for ipam in ipams(db, network).iter().filter(|ipam| ipam.is_flat()) {
        let subnet_uuid = ipam.flat_uuid();
        // Like the real server: after the ipam of the named subnet, all further ones match.
        found |= request.subnet.is_none() || subnet_uuid.as_deref() == request.subnet;
        if !found {
            continue;
        }
        tried.clear();
        let address = allocate_from(db, ipam.uuid, |_| true, request, holder, &mut tried);
        if address.is_some() {
            return Ok(Allocation {
                address,
                subnet_uuid,
            });
        }
    }
    match request.subnet {
        Some(subnet) if !found => Err(AllocationError::InvalidSubnet(subnet.to_owned())),
        _ => Err(AllocationError::Exhausted(tried)),
    }
}

fn allocate_own(
    db: &mut Db,
    network: &Object,
    request: AddressRequest<'_>,
    holder: &str,
) -> Result<Allocation, AllocationError> {
    let mut tried = Vec::new();
    let mut found = false;
    let own: Vec<_> = ipams(db, network)
        .into_iter()
        .flat_map(|ipam| ipam.subnets)
        .filter_map(|subnet| Some((network_of(subnet.get("subnet"))?, subnet)))
        .collect();
    if own.is_empty() {
        return Err(AllocationError::Absent);
    }
    for (net, subnet) in own {
        let subnet_uuid = subnet["subnet_uuid"].as_str().map(str::to_owned);
        if request.subnet.is_some() && subnet_uuid.as_deref() != request.subnet {
            continue;
        }
        found = true;
        let this = |name: &str| name == net.to_string();
        let tried_before = tried.len();
        let address = allocate_from(db, network.uuid, this, request, holder, &mut tried);
        let is_named = request.subnet.is_some() && tried.len() > tried_before;
        if address.is_some() || is_named {
            return Ok(Allocation {
                address,
                subnet_uuid,
            });
        }
    }
    match request.subnet {
        Some(subnet) if !found => Err(AllocationError::InvalidSubnet(subnet.to_owned())),
        _ => Err(AllocationError::Exhausted(tried)),
    }
}

/// Allocates an address of the first of an owner's subnets that has one. For a named subnet, only
/// the first subnet that it may be is tried, as in the real server.
fn allocate_from(
    db: &mut Db,
    owner: Uuid,
    only: impl Fn(&str) -> bool,
    request: AddressRequest<'_>,
    holder: &str,
    tried: &mut Vec<String>,
) -> Option<IpAddr> {
    for subnet in db.pools.of_mut(owner) {
        let name = subnet.network.to_string();
        let of_version = version(subnet.network.addr());
        if !only(&name) || request.version.is_some_and(|version| version != of_version) {
            continue;
        }
        if let Some(address) = request.address {
            if subnet.is_special(address) {
                return Some(address);
            }
            if !subnet.network.contains(&address) {
                continue;
            }
            subnet.reserve(address, holder);
            return Some(address);
        }
        tried.push(name);
        let allocated = subnet.allocate(holder);
        if allocated.is_some() || request.subnet.is_some() {
            return allocated;
        }
    }
    None
}

/// Frees an address if it has this holder. Without a holder, frees it in any case.
pub(crate) fn release(db: &mut Db, network: &Object, address: &str, holder: Option<&str>) {
    let Ok(address) = address.parse() else { return };
    let owners: Vec<_> = ipams(db, network).iter().map(|ipam| ipam.uuid).collect();
    for owner in [network.uuid].into_iter().chain(owners) {
        for subnet in db.pools.of_mut(owner) {
            if subnet.network.contains(&address) {
                subnet.free(address, holder);
                return;
            }
        }
    }
}

/// `ip-alloc`: addresses without an object.
pub(crate) fn allocate_for_network(
    db: &mut Db,
    network: &Object,
    subnet: Option<&str>,
    version: Option<u8>,
) -> Result<Allocation, AllocationError> {
    let request = AddressRequest {
        subnet,
        version,
        ..AddressRequest::default()
    };
    allocate(db, network, request, "ip-alloc")
}

/// `ip-free`
pub(crate) fn release_for_network(db: &mut Db, network: &Object, address: &str) {
    release(db, network, address, None);
}

/// The number of unavailable addresses in one of the network's own subnets.
pub(crate) fn count(db: &Db, network: &Object, subnet: &str) -> usize {
    let subnets = ipams(db, network).into_iter().flat_map(|ipam| ipam.subnets);
    subnets
        .into_iter()
        .filter(|known| known["subnet_uuid"] == subnet)
        .filter_map(|known| network_of(known.get("subnet")))
        .filter_map(|net| {
            db.pools
                .of(network.uuid)
                .iter()
                .find(|own| own.network == net)
        })
        .map(crate::vnc::addresses::Subnet::count)
        .sum()
}
