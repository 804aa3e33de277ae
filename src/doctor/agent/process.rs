//! The agents that run in the network namespace of the calling thread, from `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

use contrail_mesos_api::http::Address;

use super::flags::Flags;
use crate::net::netns::{self, Kind};

/// The names of the program: that of today, that of before Mesos 1.0, and those of a build directory.
const PROGRAMS: [&str; 4] = [
    "mesos-agent",
    "mesos-slave",
    "lt-mesos-agent",
    "lt-mesos-slave",
];
const DELETED: &str = " (deleted)";

/// A running agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentProcess {
    pub(crate) pid: u32,
    /// Those of its command line and environment.
    pub(crate) flags: Flags,
    /// The library of Mesos that it has loaded.
    pub(crate) libmesos: Option<PathBuf>,
    /// Whether it has loaded a library of ours whose file was replaced or removed since.
    pub(crate) has_deleted_library: bool,
}

impl AgentProcess {
    /// The address at which this host reaches it; none if its flags make no address.
    pub(crate) fn address(&self, default_port: u16) -> Option<Address> {
        let port = self.flags.get("port").and_then(|port| port.parse().ok());
        let port: u16 = port.unwrap_or(default_port);
        let ip = self.flags.ip().filter(|ip| !ip.is_unspecified());
        let host = match ip {
            Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
            Some(ip) => ip.to_string(),
            // It listens on all addresses.
            None => "127.0.0.1".to_owned(),
        };
        Address::parse(&host, port).ok()
    }
}

/// Finds the agents. What cannot be read of other processes is no error: they end at any time.
pub(super) fn find() -> Result<Vec<AgentProcess>, String> {
    let own = netns::of_this_thread(Kind::Net).map_err(|error| error.to_string())?;
    let entries =
        fs::read_dir("/proc").map_err(|error| format!("/proc cannot be read: {error}"))?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_here = |pid: u32| {
        let namespace = netns::of_pid(pid, Kind::Net);
        namespace.is_ok_and(|namespace| netns::same(&namespace, &own).unwrap_or(false))
    };
    let mut agents: Vec<_> = pids
        .filter_map(|pid| {
            let directory = Path::new("/proc").join(pid.to_string());
            let agent = read(pid, &directory)?;
            is_here(pid).then_some(agent)
        })
        .collect();
    agents.sort_by_key(|agent| agent.pid);
    Ok(agents)
}

/// Reads the process of a directory of `/proc`; none if it is no agent.
fn read(pid: u32, directory: &Path) -> Option<AgentProcess> {
    let strings = |name: &str| {
        let bytes = fs::read(directory.join(name)).unwrap_or_default();
        let parts = bytes.split(|byte| *byte == 0);
        let parts = parts.map(|part| String::from_utf8_lossy(part).into_owned());
        parts.collect::<Vec<_>>()
    };
    let arguments = strings("cmdline");
    let program = Path::new(arguments.first()?).file_name()?.to_str()?;
    if !PROGRAMS.contains(&program) {
        return None;
    }
    let environment = strings("environ");
    let maps = fs::read_to_string(directory.join("maps")).unwrap_or_default();
    let (libmesos, has_deleted_library) = mapped(&maps);
    Some(AgentProcess {
        pid,
        flags: Flags::new(
            arguments.iter().map(String::as_str),
            environment.iter().map(String::as_str),
        ),
        libmesos,
        has_deleted_library,
    })
}

/// The library of Mesos among the mapped files, and whether one of ours was deleted.
fn mapped(maps: &str) -> (Option<PathBuf>, bool) {
    let paths = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]));
    let mut libmesos = None;
    let mut has_deleted = false;
    for path in paths {
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.starts_with("libmesos") && !name.ends_with(DELETED) {
            libmesos = Some(PathBuf::from(path));
        }
        has_deleted |= name.starts_with("libcontrail_mesos.") && name.ends_with(DELETED);
    }
    (libmesos, has_deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_is_recognised_with_its_flags_and_libraries() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(read(7, directory.path()), None);
        write(
            "cmdline",
            "/usr/sbin/mesos-agent\0--port=5061\0--ip=192.0.2.1\0",
        );
        write("environ", "MESOS_LAUNCHER=linux\0HOME=/root\0");
        write(
            "maps",
            "7f0-7f1 r-xp 00000000 08:01 1 /usr/lib/libmesos-1.11.0.so\n\
             7f2-7f3 r-xp 00000000 08:01 2 /usr/lib/mesos/modules/libcontrail_mesos.so (deleted)\n\
             7f4-7f5 rw-p 00000000 00:00 0\n",
        );
        let agent = read(7, directory.path()).unwrap();
        assert_eq!(
            agent.address(5051).unwrap().to_string(),
            "http://192.0.2.1:5061"
        );
        assert_eq!(agent.flags.get("launcher"), Some("linux"));
        assert_eq!(
            agent.libmesos,
            Some(PathBuf::from("/usr/lib/libmesos-1.11.0.so"))
        );
        assert!(agent.has_deleted_library);
        write("cmdline", "/usr/sbin/mesos-master\0");
        assert_eq!(read(7, directory.path()), None);
    }
}
