//! The Mesos modules of the master: the entry points that Mesos loads, and the only unsafe code of the
//! crate.
//!
//! Invariants: no panic unwinds into C++. Nothing runs on a thread of libprocess after the creation.

#[path = "../../../src/module/abi.rs"]
mod abi;
mod bridge;
mod descriptor;

use std::panic::{AssertUnwindSafe, catch_unwind};

use contrail_mesos_api::overlay_modules::Parameters;
use contrail_mesos_api::text::with_causes;
use cxx::CxxString;

use self::bridge::ffi::ModuleKind;
use crate::logging::{self, LogFormat};
use crate::master_module::{MasterModule, MasterModuleKind, read};

/// The variable with the log filter of a module.
const LOG_VARIABLE: &str = "CONTRAIL_MESOS_LOG";

/// What a module runs in the background, owned by its C++ facade.
#[derive(Debug)]
pub(super) struct BackgroundModule {
    _module: MasterModule,
}

/// Creates a module from serialised `mesos.Parameters`.
fn create_module(
    kind: ModuleKind,
    parameters: &CxxString,
) -> Result<Box<BackgroundModule>, String> {
    let created = catch_unwind(AssertUnwindSafe(|| create(kind, parameters.as_bytes())));
    let module = created
        .unwrap_or_else(|_| Err("it panicked, which is a bug of contrail-mesos".to_owned()))?;
    Ok(Box::new(module))
}

fn create(kind: ModuleKind, parameters: &[u8]) -> Result<BackgroundModule, String> {
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned());
    match logging::init(LogFormat::Text, &filter) {
        // The other module of this library has started it.
        Ok(()) | Err(logging::LogError::OtherLogger) => {}
        Err(error) => return Err(format!("{LOG_VARIABLE}: {error}")),
    }
    let kind = match kind {
        ModuleKind::Helper => MasterModuleKind::Helper,
        _ => MasterModuleKind::Manager,
    };
    let parameters = Parameters::decode(parameters).map_err(|error| error.to_string())?;
    let variable = |name: &str| std::env::var(name).ok();
    let config = read(kind, parameters, variable).map_err(|error| with_causes(&error))?;
    let module = MasterModule::start(config).map_err(|error| with_causes(&error))?;
    Ok(BackgroundModule { _module: module })
}
