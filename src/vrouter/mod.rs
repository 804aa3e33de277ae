//! The client of the vRouter agent's port service, which runs on every compute host.
//!
//! A container is attached in four steps:
//!
//! 1. [`VrouterClient::await_configuration`]: the agent receives the container's interfaces from
//!    the control node, because the host's virtual-router object refers to the container.
//! 2. The caller creates the interface, and writes its port file ([`PortFiles`]), from which the
//!    agent restores the port after a restart.
//! 3. [`VrouterClient::register`]: passes the interface's name to the agent.
//! 4. [`VrouterClient::await_addresses`]: the agent knows the addresses.
//!
//! Teardown is the reverse: [`VrouterClient::unregister`] first, then the objects of the API. An
//! agent that has lost a port's configuration no longer removes the port, and reports no error.
//!
//! Polling starts at intervals of milliseconds and slows down. At the deadline the error says what
//! is still missing ([`Missing`]) and what to check.

mod answer;
mod client;
mod error;
mod files;
mod port;
mod wait;

pub use answer::{InterfaceAddress, InterfaceConfig, InterfaceStatus};
pub use client::{VrouterClient, VrouterOptions};
pub use error::{Incomplete, Missing, NotReady, VrouterError, VrouterErrorKind};
pub use files::{DEFAULT_DIRECTORY, PortFileError, PortFiles};
pub use port::Port;
pub use wait::ExpectedPorts;

#[cfg(test)]
mod tests;
