//! The module descriptors, which the agent finds by name.
//!
//! Declared here and not in the shim because the linker drops data symbols of C++ objects from
//! the dynamic symbols of a cdylib. The isolator's name has a slash so that the agent counts it
//! as its one network isolator and leaves `network/cni` out.

use std::ffi::{CStr, c_char, c_void};

/// `mesos::modules::Module<T>` of 1.11: eight words; the shim's `abi_check.cpp` asserts it.
#[repr(C)]
pub(super) struct Module {
    api_version: *const c_char,
    mesos_version: *const c_char,
    kind: *const c_char,
    author: *const c_char,
    email: *const c_char,
    description: *const c_char,
    compatible: Option<unsafe extern "C" fn() -> bool>,
    create: unsafe extern "C" fn(parameters: *const c_void) -> *mut c_void,
}

// SAFETY: all fields are constants, and pointers to constants.
unsafe impl Sync for Module {}

// SAFETY: the shim defines them with these signatures; none throws.
unsafe extern "C" {
    fn contrail_mesos_create_isolator(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_create_hook(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_compatible() -> bool;
}

/// The version of Mesos that the shim is built for; the build script finds it.
const MESOS_VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CONTRAIL_MESOS_MESOS_VERSION"), "\0").as_bytes())
    {
        Ok(version) => version,
        Err(_) => panic!("the version of Mesos has a NUL in it"),
    };

const fn module(
    kind: &'static CStr,
    description: &'static CStr,
    create: unsafe extern "C" fn(*const c_void) -> *mut c_void,
) -> Module {
    Module {
        api_version: c"2".as_ptr(),
        mesos_version: MESOS_VERSION.as_ptr(),
        kind: kind.as_ptr(),
        author: c"The contrail-mesos authors".as_ptr(),
        // Mesos refuses a null pointer, not an empty address.
        email: c"".as_ptr(),
        description: description.as_ptr(),
        compatible: Some(contrail_mesos_compatible),
        create,
    }
}

// SAFETY: the agent looks the symbol up by this name and reads it as the struct that it is.
#[unsafe(export_name = "network/contrail")]
pub(super) static ISOLATOR: Module = module(
    c"Isolator",
    c"Network isolator: bridge, Contrail and CNI networks",
    contrail_mesos_create_isolator,
);

// SAFETY: as above.
#[unsafe(export_name = "org_contrail_mesos_Hook")]
pub(super) static HOOK: Module = module(
    c"Hook",
    c"Decorates the status of tasks with what their networks gave them",
    contrail_mesos_create_hook,
);
