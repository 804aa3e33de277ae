//! The module descriptors, which Mesos looks up by symbol name.

use std::ffi::c_void;

use super::abi::Module;

// SAFETY: the shim defines them with these signatures, and they do not throw.
unsafe extern "C" {
    fn contrail_mesos_manager_create_helper(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_manager_create_manager(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_manager_compatible() -> bool;
}

// SAFETY: no other symbol has this name; Mesos looks it up and reads it as this struct.
#[unsafe(export_name = "com_mesosphere_mesos_MasterOverlayHelper")]
pub(super) static HELPER: Module = Module::new(
    c"Anonymous",
    c"Overlay networks of a cluster, by the file of the overlays",
    contrail_mesos_manager_compatible,
    contrail_mesos_manager_create_helper,
);

// SAFETY: as above.
#[unsafe(export_name = "com_mesosphere_mesos_OverlayMasterManager")]
pub(super) static MANAGER: Module = Module::new(
    c"Anonymous",
    c"Overlay networks of a cluster, by the JSON file of the master module",
    contrail_mesos_manager_compatible,
    contrail_mesos_manager_create_manager,
);
