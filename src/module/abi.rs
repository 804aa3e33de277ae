//! `mesos::modules::Module<T>` of 1.11, for the descriptors of all libraries, and what a library says
//! about its build. The packages `node` and `manager` include this file.
//!
//! Descriptors are declared in Rust because the linker does not export data symbols of C++ objects
//! from a cdylib.

use std::ffi::{CStr, c_char, c_void};

/// Creates a module from a `mesos::Parameters`; null if it cannot.
pub(super) type Create = unsafe extern "C" fn(parameters: *const c_void) -> *mut c_void;

/// Eight words, as `abi_check.cpp` of the shim asserts.
#[repr(C)]
pub(super) struct Module {
    api_version: *const c_char,
    mesos_version: *const c_char,
    kind: *const c_char,
    author: *const c_char,
    email: *const c_char,
    description: *const c_char,
    compatible: Option<unsafe extern "C" fn() -> bool>,
    create: Create,
}

// SAFETY: the fields are constants and pointers to constants.
unsafe impl Sync for Module {}

/// The version of Mesos that the shim is built for, from the build script.
const MESOS_VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CONTRAIL_MESOS_MESOS_VERSION"), "\0").as_bytes())
    {
        Ok(version) => version,
        Err(_) => panic!("the version of Mesos contains a NUL"),
    };

impl Module {
    /// The descriptor of a module of this kind.
    pub(super) const fn new(
        kind: &'static CStr,
        description: &'static CStr,
        compatible: unsafe extern "C" fn() -> bool,
        create: Create,
    ) -> Self {
        Self {
            api_version: c"2".as_ptr(),
            mesos_version: MESOS_VERSION.as_ptr(),
            kind: kind.as_ptr(),
            author: c"The contrail-mesos authors".as_ptr(),
            // May be empty, but Mesos refuses a null pointer.
            email: c"".as_ptr(),
            description: description.as_ptr(),
            compatible: Some(compatible),
            create,
        }
    }
}

/// An ELF note of the type 1: linkers and `strip` keep it, and it is read without loading the library,
/// by `contrail-mesos module info`.
#[repr(C, align(4))]
struct BuildNote<const N: usize> {
    name_length: u32,
    description_length: u32,
    kind: u32,
    /// Padded to a multiple of four bytes, as the description is by the alignment.
    name: [u8; 16],
    description: [u8; N],
}

/// A line for each key. An unknown value is empty.
const BUILD: &str = concat!(
    "package=",
    env!("CARGO_PKG_NAME"),
    "\nversion=",
    env!("CARGO_PKG_VERSION"),
    "\ncommit=",
    env!("CONTRAIL_MESOS_COMMIT"),
    "\nmesos=",
    env!("CONTRAIL_MESOS_MESOS_VERSION"),
    "\nlayout=",
    env!("CONTRAIL_MESOS_LAYOUT"),
    "\ndefines=",
    env!("CONTRAIL_MESOS_DEFINES"),
    "\n",
);

// SAFETY: the section has only notes, and this is one.
#[unsafe(link_section = ".note.contrail_mesos")]
#[used]
static BUILD_NOTE: BuildNote<{ BUILD.len() }> = BuildNote {
    name_length: 15,
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a few hundred bytes, and constants cannot be converted otherwise"
    )]
    description_length: BUILD.len() as u32,
    kind: 1,
    name: *b"contrail-mesos\0\0",
    description: description(),
};

const fn description() -> [u8; BUILD.len()] {
    let mut bytes = [0; BUILD.len()];
    bytes.copy_from_slice(BUILD.as_bytes());
    bytes
}
