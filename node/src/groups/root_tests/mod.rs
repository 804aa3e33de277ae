//! Tests on real packets: containers of hosts that are network namespaces of their own.

mod data_path;
mod faults;
pub(crate) mod lab;
