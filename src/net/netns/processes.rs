//! Which network namespaces have processes: their containers are alive.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::Parseable as _;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::sys::stat::fstat;

use super::{Kind, is_hosts, namespace_id, of_pid};
use crate::net::netlink::{NetlinkError, NetlinkSocket, Request};

const RTM_GETNSID: u16 = 90;

/// The network namespaces that have processes, each with one of them, without those of the host itself.
#[derive(Clone, Debug, Default)]
pub struct OccupiedNamespaces {
    /// By device and inode of the namespace.
    processes: HashMap<(u64, u64), u32>,
}

impl OccupiedNamespaces {
    /// Lists them. Processes that end meanwhile are left out. Blocks.
    pub fn list() -> io::Result<Self> {
        let mut processes = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if let Some(id) = namespace_id(&pid.to_string()) {
                processes.entry(id).or_insert(pid);
            }
        }
        // The host's has many, so it is compared once.
        processes.retain(|_, pid| {
            let namespace = of_pid(*pid, Kind::Net);
            namespace.is_ok_and(|namespace| is_hosts(namespace).is_ok_and(|is_hosts| !is_hosts))
        });
        Ok(Self { processes })
    }

    /// One process of each namespace.
    pub fn processes(&self) -> impl Iterator<Item = u32> + '_ {
        self.processes.values().copied()
    }

    /// A process in `namespace`.
    pub fn process_in(&self, namespace: impl AsFd) -> io::Result<Option<u32>> {
        let stat = fstat(namespace)?;
        Ok(self.processes.get(&(stat.st_dev, stat.st_ino)).copied())
    }

    /// The processes by the numbers that this thread's namespace has for their namespaces, as
    /// [`Link::peer_namespace`] has them.
    ///
    /// [`Link::peer_namespace`]: crate::net::links::Link::peer_namespace
    pub fn by_number(&self, socket: &mut NetlinkSocket) -> Result<HashMap<i32, u32>, NetlinkError> {
        let mut numbers = HashMap::new();
        for pid in self.processes.values() {
            match number_of(socket, *pid) {
                Ok(Some(number)) => {
                    numbers.insert(number, *pid);
                }
                Ok(None) => {}
                // It has ended, which the caller takes as no process.
                Err(error) if error.errno().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(numbers)
    }
}

/// The number that this thread's namespace has for the namespace of a process, if it has one.
fn number_of(socket: &mut NetlinkSocket, pid: u32) -> Result<Option<i32>, NetlinkError> {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Pid(pid));
    let action = format!("find the namespace of process {pid}");
    let bytes = socket.get(&Request::with_message(RTM_GETNSID, 0, &message, &action))?;
    let invalid = |message: String| NetlinkError::InvalidResponse {
        action: action.clone(),
        message,
    };
    let reply = NsidMessage::parse(&bytes[..]).map_err(|error| invalid(error.to_string()))?;
    Ok(reply
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            // A negative number says that there is none.
            NsidAttribute::Id(number) if *number >= 0 => Some(*number),
            _ => None,
        }))
}
