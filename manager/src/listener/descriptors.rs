//! How many connections the limit of open files allows.
//!
//! Each connection takes a file descriptor. Those for the manager's own work, such as calls to the
//! VNC API and the session with ZooKeeper, are kept back.

use nix::sys::resource::{Resource, getrlimit};

use super::connections::ConnectionLimits;
use crate::config::Config;

/// For ZooKeeper, Mesos, Marathon, Keystone, files and the log.
const OWN_DESCRIPTORS: usize = 128;
/// How many connections the admin listener may have. Monitoring and a few browsers need that many.
const ADMIN_CONNECTIONS: usize = 64;
/// How many connections of CNI plugins there may be. A plugin makes one for each request.
const LEGACY_CONNECTIONS: usize = 256;
/// How many connections each listener can have under any limit.
const MIN_CONNECTIONS: usize = 16;

/// The limits of all listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allotment {
    pub agents: ConnectionLimits,
    pub legacy: ConnectionLimits,
    pub admin: ConnectionLimits,
}

impl Allotment {
    /// What the current limit of open files allows of the configured limits. Logs if that is less.
    pub(crate) fn new(config: &Config) -> Self {
        // Without an answer, what systems start services with.
        let open_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let allotment = Self::within(open_files, config);
        let (configured, possible) = (config.connections.total, allotment.agents.total);
        if possible < configured {
            log::warn!(
                open_files, configured, possible;
                "the limit of open files allows fewer connections than configured; raise it \
                 (LimitNOFILE= of systemd), or lower connections in [limits]"
            );
        }
        allotment
    }

    fn within(open_files: usize, config: &Config) -> Self {
        let limits = config.connections;
        let calls = config.vnc.as_ref().map_or(0, |vnc| vnc.in_flight);
        let own = OWN_DESCRIPTORS + calls;
        let free = open_files.saturating_sub(own);
        let limit = |total: usize| ConnectionLimits {
            total: total.max(MIN_CONNECTIONS),
            per_address: limits.per_address.min(total).max(MIN_CONNECTIONS),
        };
        let admin = ADMIN_CONNECTIONS.min(free / 8);
        let legacy = match config.legacy_listen {
            Some(_) => LEGACY_CONNECTIONS.min(free / 4),
            None => 0,
        };
        let closing = 3 * super::CLOSING_CONNECTIONS;
        let rest = free.saturating_sub(admin + legacy + closing);
        Self {
            agents: limit(limits.total.min(rest)),
            legacy: limit(legacy),
            admin: limit(admin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnc::VncOptions;

    #[test]
    fn descriptors_for_own_work_are_kept_back() {
        let mut config = Config::new(VncOptions {
            in_flight: 64,
            ..VncOptions::new(vec![])
        });
        config.legacy_listen = Some(([127, 0, 0, 1], 0).into());
        for open_files in [1024, 4096, 65_536, usize::MAX] {
            let allotment = Allotment::within(open_files, &config);
            let all = [allotment.agents, allotment.legacy, allotment.admin];
            let taken: usize = all.iter().map(|limits| limits.total).sum();
            assert!(taken + 64 + OWN_DESCRIPTORS <= open_files, "{allotment:?}");
            assert!(all.iter().all(|limits| limits.total >= 64));
        }
        let plenty = Allotment::within(65_536, &config).agents;
        assert_eq!(plenty.total, config.connections.total);
        // However few there are, each listener works.
        assert_eq!(Allotment::within(0, &config).admin.total, MIN_CONNECTIONS);
    }
}
