//! The kernel's networking, as far as containers need it. Knows nothing of Mesos.
//!
//! Invariants: no child process; only `netns` calls setns; a socket is used for the namespace in
//! which it was opened; nothing that is not ours by name is changed.
#![forbid(unsafe_code)]

pub mod addressing;
pub mod link_reaper;
pub mod link_watch;
pub mod links;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod sysctl;

#[cfg(test)]
pub(crate) mod testing;
