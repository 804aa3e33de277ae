//! Overlay networks on three hosts: real agents with the module, real managers with the real
//! ZooKeeper, and the node daemon on every host. The subjects are those of the tests of the DC/OS
//! overlay modules, and what the modules left to others: the traffic between hosts.

mod blocks;
mod changes;
mod disaster;
mod docker;
mod faults;
mod fixture;
mod ipv6;
mod launches;
mod networks;
mod recovery;
mod star;
