//! Errors of the data path.

use std::io;

use contrail_mesos::net::netlink::NetlinkError;

/// Why there is no data path.
#[derive(Debug, thiserror::Error)]
pub enum DataPathError {
    /// A command failed.
    #[error("{program} failed: {problem}; the data path needs root, and {program} in PATH")]
    Command {
        /// `ip`, `bridge` or `nft`.
        program: &'static str,
        /// Its error output.
        problem: String,
    },
    /// A query of the kernel failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The thread did not start, or it panicked.
    #[error("the data path's thread: {0}")]
    Thread(#[source] io::Error),
    /// The uplink does not exist.
    #[error("there is no interface {0}: name another one as uplink, or none")]
    NoUplink(String),
}
