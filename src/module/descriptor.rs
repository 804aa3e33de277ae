//! The module descriptors, which the agent looks up by symbol name.
//!
//! Declared in Rust because the linker does not export data symbols of C++ objects from a cdylib.
//! The isolator's name starts with `network/`, so the agent treats it as its one network isolator
//! and does not load `network/cni`.

use std::ffi::{CStr, c_char, c_void};

/// `mesos::modules::Module<T>` of 1.11: eight words, as `abi_check.cpp` of the shim asserts.
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

// SAFETY: the fields are constants and pointers to constants.
unsafe impl Sync for Module {}

// SAFETY: the shim defines them with these signatures, and they do not throw.
unsafe extern "C" {
    fn contrail_mesos_create_isolator(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_create_hook(parameters: *const c_void) -> *mut c_void;
    fn contrail_mesos_compatible() -> bool;
}

/// The version of Mesos that the shim is built for, from the build script.
const MESOS_VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CONTRAIL_MESOS_MESOS_VERSION"), "\0").as_bytes())
    {
        Ok(version) => version,
        Err(_) => panic!("the version of Mesos contains a NUL"),
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
        // May be empty, but Mesos refuses a null pointer.
        email: c"".as_ptr(),
        description: description.as_ptr(),
        compatible: Some(contrail_mesos_compatible),
        create,
    }
}

// SAFETY: no other symbol has this name; the agent looks it up and reads it as this struct.
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
    c"Adds labels with MAC addresses and gateways to the status of tasks",
    contrail_mesos_create_hook,
);
