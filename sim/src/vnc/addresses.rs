//! Address pools: the allocated addresses, their holders, and the next free address.
//!
//! The network address, the last address, the gateway and the service address are never allocated.
//! Addresses are allocated from the top of a subnet, unless `addr_from_start` is set.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::python_repr;

/// Subnets by their network or ipam, in order.
#[derive(Default)]
pub(crate) struct Pools(HashMap<Uuid, Vec<Subnet>>);

/// One subnet.
pub(crate) struct Subnet {
    pub(crate) network: IpNet,
    gateway: Option<IpAddr>,
    service: Option<IpAddr>,
    from_start: bool,
    /// First and last address of each range, sorted.
    ranges: Vec<(u128, u128)>,
    allocated: BTreeMap<u128, String>,
}

impl Pools {
    pub(crate) fn of(&self, owner: Uuid) -> &[Subnet] {
        self.0.get(&owner).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn of_mut(&mut self, owner: Uuid) -> &mut [Subnet] {
        self.0.get_mut(&owner).map_or(&mut [], Vec::as_mut_slice)
    }

    pub(crate) fn remove(&mut self, owner: Uuid) {
        self.0.remove(&owner);
    }

    /// Every allocated address: its network or ipam, the address and its holder.
    pub(crate) fn allocations(&self) -> Vec<(Uuid, IpAddr, String)> {
        let subnets = self.0.iter();
        let subnets =
            subnets.flat_map(|(owner, list)| list.iter().map(move |subnet| (owner, subnet)));
        let mut allocated: Vec<_> = subnets
            .flat_map(|(owner, subnet)| {
                let allocated = subnet.allocated.iter();
                allocated.map(|(number, holder)| {
                    (*owner, address(*number, subnet.network), holder.clone())
                })
            })
            .collect();
        allocated.sort();
        allocated
    }

    /// Replaces an owner's subnets; those that stay keep their allocated addresses.
    pub(crate) fn set(&mut self, owner: Uuid, subnets: Vec<Subnet>) {
        let mut old = self.0.remove(&owner).unwrap_or_default();
        let subnets = subnets
            .into_iter()
            .map(|mut subnet| {
                if let Some(old) = old.iter_mut().find(|old| old.network == subnet.network) {
                    subnet.allocated = std::mem::take(&mut old.allocated);
                }
                subnet
            })
            .collect();
        self.0.insert(owner, subnets);
    }
}

impl Subnet {
    /// Reads a subnet from JSON, and fills in the gateway and the service address there. Errors are
    /// those of the real server.
    pub(crate) fn read(fields: &mut Map<String, Value>, owner: &str) -> Result<Self, String> {
        let network = network(fields.get("subnet")).ok_or("'subnet'")?;
        let name = format!("{owner}:{network}");
        let (first, last) = bounds(network);
        let from_start = fields.get("addr_from_start") == Some(&Value::Bool(true));
        let mut ranges = Vec::new();
        for pool in fields
            .get("allocation_pools")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let shown = python_repr::repr(pool);
            let end = |key: &str| {
                pool[key]
                    .as_str()
                    .and_then(|text| text.parse::<IpAddr>().ok())
                    .ok_or_else(|| {
                        format!("subnet({name}) has Invalid Ip address in Allocation Pool({shown})")
                    })
            };
            let (start, end) = (end("start")?, end("end")?);
            if !network.contains(&start) || !network.contains(&end) {
                return Err(format!(
                    "subnet({name}) allocation pool ({shown}) is out of cidr"
                ));
            }
            if number(end) < number(start) {
                return Err(format!(
                    "subnet({name}) has Invalid Allocation Pool({shown})"
                ));
            }
            ranges.push((number(start), number(end)));
        }
        ranges.sort_unstable();
        if ranges.is_empty() {
            ranges.push((first, last.saturating_sub(1)));
        }
        let text_field = |name: &str| {
            fields
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty() && *text != "None")
        };
        let (near, next) = if from_start {
            (first.saturating_add(1), first.saturating_add(2))
        } else {
            (last.saturating_sub(1), last.saturating_sub(2))
        };
        let address = |text: Option<&str>, otherwise: u128, what: &str| match text {
            None => Ok(address(otherwise, network)),
            Some(text) => text
                .parse()
                .map_err(|_| format!("subnet({name}) has Invalid {what} ip address({text})")),
        };
        let gateway: IpAddr = address(text_field("default_gateway"), near, "Gateway")?;
        let service: IpAddr = address(text_field("dns_server_address"), next, "Service Node")?;
        let whole = fields
            .get("allocation_pools")
            .is_none_or(|pools| !python_repr::truthy(pools));
        for (start, end) in &ranges {
            let end = if whole { last } else { *end };
            if !has_room(
                (*start, end),
                (first, last),
                number(gateway),
                number(service),
            ) {
                return Err(format!(
                    "Virtual-Network({name}) has invalid alloc_unit(1) in subnet({network}) \
                     reason: Pool range<=block_alloc_unit"
                ));
            }
        }
        fields.insert("default_gateway".to_owned(), gateway.to_string().into());
        fields.insert("dns_server_address".to_owned(), service.to_string().into());
        Ok(Self {
            network,
            gateway: Some(gateway),
            service: Some(service),
            from_start,
            ranges,
            allocated: BTreeMap::new(),
        })
    }

    /// Whether this address is allocated or reserved.
    pub(crate) fn is_unavailable(&self, address: IpAddr) -> bool {
        self.is_reserved(number(address)) || self.allocated.contains_key(&number(address))
    }

    /// Gateway and service address are only allocated to requests that name them.
    pub(crate) fn is_special(&self, address: IpAddr) -> bool {
        [self.gateway, self.service].contains(&Some(address))
    }

    fn is_reserved(&self, address: u128) -> bool {
        let (first, last) = bounds(self.network);
        address == first
            || address == last
            || [self.gateway, self.service]
                .into_iter()
                .flatten()
                .any(|special| number(special) == address)
    }

    /// Allocates this address.
    pub(crate) fn reserve(&mut self, address: IpAddr, holder: &str) {
        self.allocated
            .entry(number(address))
            .or_insert_with(|| holder.to_owned());
    }

    /// Allocates the next address.
    pub(crate) fn allocate(&mut self, holder: &str) -> Option<IpAddr> {
        let free =
            |address: &u128| !self.is_reserved(*address) && !self.allocated.contains_key(address);
        let mut ranges = self.ranges.iter();
        let found = if self.from_start {
            ranges.find_map(|(first, last)| (*first..=*last).find(free))
        } else {
            ranges
                .rev()
                .find_map(|(first, last)| (*first..=*last).rev().find(free))
        }?;
        self.allocated.insert(found, holder.to_owned());
        Some(address(found, self.network))
    }

    /// Frees an address, unless it has another holder. Without a holder, frees it in any case.
    pub(crate) fn free(&mut self, address: IpAddr, holder: Option<&str>) {
        let address = number(address);
        if holder.is_none() || self.allocated.get(&address).map(String::as_str) == holder {
            self.allocated.remove(&address);
        }
    }

    /// The number of addresses that are not available.
    pub(crate) fn count(&self) -> usize {
        let reserved = self
            .ranges
            .iter()
            .map(|(first, last)| {
                let (net, end) = bounds(self.network);
                [
                    Some(net),
                    Some(end),
                    self.gateway.map(number),
                    self.service.map(number),
                ]
                .into_iter()
                .flatten()
                .filter(|address| (first..=last).contains(&address))
                .count()
            })
            .sum::<usize>();
        self.allocated.len() + reserved
    }
}

/// Whether a pool has more addresses than are reserved, as the real server counts them.
fn has_room(pool: (u128, u128), net: (u128, u128), gateway: u128, service: u128) -> bool {
    let (start, end) = pool;
    let inside = |address: u128| start < address && address < end;
    let mut kept = u128::from(start == net.0);
    kept += u128::from(end == net.1 && (start != net.0 || end > start));
    kept += u128::from(inside(gateway));
    kept += u128::from(inside(service) && gateway.abs_diff(service) > 1);
    (end - start).saturating_add(1) > kept
}

/// The network of `{"ip_prefix": …, "ip_prefix_len": …}`.
pub(crate) fn network(subnet: Option<&Value>) -> Option<IpNet> {
    let subnet = subnet?;
    let prefix = subnet.get("ip_prefix")?.as_str()?;
    let length = u8::try_from(subnet.get("ip_prefix_len")?.as_u64()?).ok()?;
    Some(IpNet::new(prefix.parse().ok()?, length).ok()?.trunc())
}

fn bounds(network: IpNet) -> (u128, u128) {
    (number(network.network()), number(network.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128, network: IpNet) -> IpAddr {
    match network {
        IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn subnet(mut value: Value) -> Subnet {
        Subnet::read(value.as_object_mut().unwrap(), "vn").unwrap()
    }

    fn of(prefix: &str, length: u8) -> Value {
        json!({"subnet": {"ip_prefix": prefix, "ip_prefix_len": length}})
    }

    #[test]
    fn subnet_allocates_from_the_top() {
        let mut value = of("5.5.5.0", 29);
        let mut subnet = Subnet::read(value.as_object_mut().unwrap(), "vn").unwrap();
        assert_eq!(value["default_gateway"], "5.5.5.6");
        assert_eq!(value["dns_server_address"], "5.5.5.5");
        let allocated: Vec<_> = std::iter::from_fn(|| subnet.allocate("x"))
            .map(|address| address.to_string())
            .collect();
        assert_eq!(allocated, ["5.5.5.4", "5.5.5.3", "5.5.5.2", "5.5.5.1"]);
        subnet.free("5.5.5.3".parse().unwrap(), Some("y"));
        assert_eq!(subnet.allocate("z"), None);
        subnet.free("5.5.5.3".parse().unwrap(), Some("x"));
        assert_eq!(subnet.allocate("z"), "5.5.5.3".parse().ok());
    }

    #[test]
    fn subnet_without_room_is_refused() {
        let read = |prefix: &str, length| {
            let mut value = of(prefix, length);
            Subnet::read(value.as_object_mut().unwrap(), "d:p:n").map(drop)
        };
        for (prefix, length) in [("20.5.0.0", 32), ("20.5.0.0", 31), ("fd00:9::", 127)] {
            let net = format!("{prefix}/{length}");
            assert_eq!(
                read(prefix, length).unwrap_err(),
                format!(
                    "Virtual-Network(d:p:n:{net}) has invalid alloc_unit(1) in subnet({net}) \
                     reason: Pool range<=block_alloc_unit"
                )
            );
        }
        // Accepted, although all four addresses are reserved.
        read("20.5.0.0", 30).unwrap();
    }

    #[test]
    fn subnet_with_addr_from_start_allocates_from_the_start() {
        let mut value = of("fd00::", 64);
        value["addr_from_start"] = true.into();
        let mut subnet = subnet(value);
        assert_eq!(subnet.allocate("x"), "fd00::3".parse().ok());
    }

    #[test]
    fn subnet_allocates_within_its_pools_only() {
        let mut value = of("5.5.5.0", 24);
        value["allocation_pools"] = json!([
            {"start": "5.5.5.10", "end": "5.5.5.11"}, {"start": "5.5.5.20", "end": "5.5.5.20"}
        ]);
        let mut subnet = subnet(value);
        let allocated: Vec<_> = std::iter::from_fn(|| subnet.allocate("x")).collect();
        assert_eq!(allocated.len(), 3);
        assert_eq!(allocated[0], "5.5.5.20".parse::<IpAddr>().unwrap());
    }
}
