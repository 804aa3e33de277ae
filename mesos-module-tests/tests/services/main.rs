//! Services on the real Mesos: virtual IPs and names of apps, on the network of the hosts, on bridges with
//! mapped ports, and on overlays.

mod changes;
mod clients;
