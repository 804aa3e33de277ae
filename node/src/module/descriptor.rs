//! The module descriptors, which Mesos looks up by symbol name.

use std::ffi::c_void;

use super::abi::Module;

// SAFETY: the shim defines them with these signatures, and they do not throw.
unsafe extern "C" {
    fn contrail_mesos_node_create_helper(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_node_create_manager(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_node_compatible() -> bool;
}

// SAFETY: no other symbol has this name; Mesos looks it up and reads it as this struct.
#[unsafe(export_name = "com_mesosphere_mesos_AgentOverlayHelper")]
pub(super) static HELPER: Module = Module::new(
    c"Anonymous",
    c"Overlay networks on an agent, by the address of its master",
    contrail_mesos_node_compatible,
    contrail_mesos_node_create_helper,
);

// SAFETY: as above.
#[unsafe(export_name = "com_mesosphere_mesos_OverlayAgentManager")]
pub(super) static MANAGER: Module = Module::new(
    c"Anonymous",
    c"Overlay networks on an agent, by a JSON file",
    contrail_mesos_node_compatible,
    contrail_mesos_node_create_manager,
);
