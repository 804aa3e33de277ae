//! The client of the vRouter agent's port service, which runs on every compute host.
//!
//! A container comes up in four steps, each of which waits for another party:
//!
//! 1. [`VrouterClient::await_configuration`]: the agent has been given the container's
//!    interfaces, because the host's virtual-router object refers to the container.
//! 2. The caller makes the interface, and writes its port file ([`PortFiles`]), from which the
//!    agent knows it again after a restart.
//! 3. [`VrouterClient::register`]: the agent is told the interface's name.
//! 4. [`VrouterClient::await_addresses`]: the agent knows the addresses.
//!
//! It goes the other way round: [`VrouterClient::unregister`] first, the objects of the API
//! second, since an agent that no longer has the configuration silently removes nothing.
//!
//! Waiting starts within milliseconds and slows down; what is still missing at the deadline is
//! named ([`Missing`]), with what to do about it.

mod answer;
mod client;
mod error;
mod files;
mod port;
mod wait;

pub use answer::{InterfaceAddress, InterfaceConfig, Plugged};
pub use client::{VrouterClient, VrouterOptions};
pub use error::{Incomplete, Missing, NotReady, VrouterError, VrouterErrorKind};
pub use files::{DEFAULT_DIRECTORY, PortFileError, PortFiles};
pub use port::Port;
pub use wait::Wanted;

#[cfg(test)]
mod tests;
