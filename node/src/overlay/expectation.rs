//! Which notifications make a comparison due: those that report something else than the last
//! comparison left. So the subsystem's own changes need none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use contrail_mesos::net::overlay_watch::OverlayEvent;
use contrail_mesos::net::routes::{FoundRoute, GatewayRoute};
use contrail_mesos::net::vxlan::VxlanDevice;
use contrail_mesos_api::container::Mac;
use ipnet::IpNet;

use super::ROUTE_PROTOCOL;
use super::desired::{DesiredState, Device, Mac6};
use super::diff::{can_keep, device_settings, is_link_local, path_mtu_setting};
use crate::uplink::Uplink;

/// What the last comparison left.
#[derive(Debug)]
pub(super) struct Expectation {
    desired: DesiredState,
    address: IpAddr,
    uplink: Uplink,
    /// The names of our devices, by their indexes.
    devices: BTreeMap<u32, String>,
}

/// What a notification is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Link(u32),
    Address(u32, IpNet),
    Neighbour(u32, IpAddr),
    Forwarding(u32, Mac6),
    Route(IpNet),
    Settings,
    Sources,
    Missed,
}

/// The notifications since the last comparison began.
#[derive(Debug, Default)]
pub(super) struct Contradictions(BTreeSet<Subject>);

impl Contradictions {
    /// Whether a comparison is due.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a notification into account. A later one about the same subject may settle it.
    pub(super) fn add(&mut self, expectation: &Expectation, event: &OverlayEvent) {
        let Some((subject, is_expected)) = expectation.judge(event) else {
            return;
        };
        if is_expected {
            self.0.remove(&subject);
        } else {
            self.0.insert(subject);
        }
    }
}

impl Expectation {
    pub(super) fn new(
        desired: DesiredState,
        address: IpAddr,
        uplink: Uplink,
        devices: BTreeMap<u32, String>,
    ) -> Self {
        Self {
            desired,
            address,
            uplink,
            devices,
        }
    }

    fn device(&self, index: u32) -> Option<&Device> {
        self.desired.devices.get(self.devices.get(&index)?)
    }

    /// What an event is about, and whether it is as it must be; none if it does not matter.
    fn judge(&self, event: &OverlayEvent) -> Option<(Subject, bool)> {
        Some(match event {
            OverlayEvent::Link(link) => {
                let is_uplink = link.mtu == self.uplink.mtu && link.name == self.uplink.name;
                (link.index == self.uplink.index)
                    .then_some((Subject::Link(link.index), is_uplink))?
            }
            OverlayEvent::Device(device) => {
                let subject = Subject::Link(device.link.index);
                (subject, self.is_expected_device(device)?)
            }
            OverlayEvent::LinkDeleted(index) => {
                let is_needed = self.device(*index).is_some() || *index == self.uplink.index;
                (Subject::Link(*index), !is_needed)
            }
            OverlayEvent::Address(index, net) => {
                let device = self.device(*index)?;
                let is_expected = device.addresses.contains(net) || is_link_local(net);
                (Subject::Address(*index, *net), is_expected)
            }
            OverlayEvent::AddressDeleted(index, net) => {
                let is_needed = if *index == self.uplink.index {
                    net.addr() == self.address
                } else {
                    self.device(*index)?.addresses.contains(net)
                };
                (Subject::Address(*index, *net), !is_needed)
            }
            OverlayEvent::Neighbour(neighbour) => {
                let wanted = self
                    .device(neighbour.index)?
                    .neighbours
                    .get(&neighbour.address);
                let is_expected = match wanted {
                    Some(mac) => neighbour.is_permanent && neighbour.mac.map(Mac) == Some(*mac),
                    None => !neighbour.is_permanent,
                };
                let subject = Subject::Neighbour(neighbour.index, neighbour.address);
                (subject, is_expected)
            }
            OverlayEvent::NeighbourDeleted(neighbour) => {
                let device = self.device(neighbour.index)?;
                let is_needed = device.neighbours.contains_key(&neighbour.address);
                let subject = Subject::Neighbour(neighbour.index, neighbour.address);
                (subject, !is_needed)
            }
            OverlayEvent::Forwarding(entry) => {
                let wanted = self.device(entry.index)?.forwarding.get(&entry.mac);
                let is_expected = wanted == Some(&entry.remote) && !entry.is_altered;
                (Subject::Forwarding(entry.index, entry.mac), is_expected)
            }
            OverlayEvent::ForwardingDeleted(entry) => {
                let wanted = self.device(entry.index)?.forwarding.get(&entry.mac);
                let is_needed = wanted == Some(&entry.remote);
                (Subject::Forwarding(entry.index, entry.mac), !is_needed)
            }
            OverlayEvent::Route(route) => {
                (Subject::Route(route.destination), self.is_route(route)?)
            }
            OverlayEvent::RouteDeleted(route) => {
                (Subject::Route(route.destination), !self.is_route(route)?)
            }
            OverlayEvent::SettingChanged => {
                let devices = self.devices.values();
                let mut settings = devices
                    .flat_map(|name| device_settings(name, self.desired.has_v6))
                    .chain([path_mtu_setting()]);
                (Subject::Settings, settings.all(|setting| setting.is_set()))
            }
            OverlayEvent::SourcesChanged => (Subject::Sources, false),
            OverlayEvent::Missed => (Subject::Missed, false),
        })
    }

    fn is_expected_device(&self, device: &VxlanDevice) -> Option<bool> {
        let link = &device.link;
        let wanted = self.device(link.index)?;
        let has_name = self.devices.get(&link.index) == Some(&link.name);
        Some(
            has_name
                && can_keep(device, wanted)
                && link.up
                && link.mtu == wanted.mtu
                && link.mac == wanted.mac.0,
        )
    }

    /// Whether a route is one that must be there; none if it is another program's, and concerns
    /// none of ours.
    fn is_route(&self, route: &FoundRoute) -> Option<bool> {
        let Some(wanted) = self.desired.routes.get(&route.destination) else {
            let is_ours = route.protocol == ROUTE_PROTOCOL
                && route
                    .index
                    .is_some_and(|index| self.devices.contains_key(&index));
            return is_ours.then_some(false);
        };
        let index = route.index.filter(|index| {
            self.devices.get(index).map(String::as_str) == Some(wanted.device.as_str())
        });
        Some(index.is_some_and(|index| {
            route.protocol == ROUTE_PROTOCOL
                && route.is(&GatewayRoute {
                    destination: route.destination,
                    gateway: wanted.gateway,
                    index,
                })
        }))
    }
}
