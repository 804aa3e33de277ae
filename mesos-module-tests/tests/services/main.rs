//! Services on the real Mesos: virtual IPs and names of apps, on the network of the hosts, on bridges with
//! mapped ports, on overlays, and on networks of Contrail.

mod changes;
mod clients;
mod contrail;
