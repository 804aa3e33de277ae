//! The module descriptors, which the agent looks up by symbol name.
//!
//! The isolator's name starts with `network/`, so the agent treats it as its one network isolator
//! and does not load `network/cni`.

use std::ffi::c_void;

use super::abi::Module;

// SAFETY: the shim defines them with these signatures, and they do not throw.
unsafe extern "C" {
    fn contrail_mesos_create_isolator(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_create_hook(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_compatible() -> bool;
}

// SAFETY: no other symbol has this name; the agent looks it up and reads it as this struct.
#[unsafe(export_name = "network/contrail")]
pub(super) static ISOLATOR: Module = Module::new(
    c"Isolator",
    c"Network isolator: bridge, Contrail and CNI networks",
    contrail_mesos_compatible,
    contrail_mesos_create_isolator,
);

// SAFETY: as above.
#[unsafe(export_name = "org_contrail_mesos_Hook")]
pub(super) static HOOK: Module = Module::new(
    c"Hook",
    c"Adds labels with MAC addresses and gateways to the status of tasks",
    contrail_mesos_compatible,
    contrail_mesos_create_hook,
);
