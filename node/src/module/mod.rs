//! The Mesos modules of the agent: the entry points that Mesos loads, and the only unsafe code of the
//! crate.
//!
//! Invariants: no panic unwinds into C++. Nothing runs on a thread of libprocess after the creation.

#[path = "../../../src/module/abi.rs"]
mod abi;
mod bridge;
mod descriptor;

use std::panic::{AssertUnwindSafe, catch_unwind};

use contrail_mesos_api::log_line;
use contrail_mesos_api::overlay_modules::Parameters;
use contrail_mesos_api::text::with_causes;
use cxx::CxxString;

use self::bridge::ffi::ModuleKind;
use crate::agent_module::{AgentModule, AgentModuleConfig, AgentModuleKind};

/// What a module runs in the background, owned by its C++ facade.
#[derive(Debug)]
pub(super) struct BackgroundModule {
    _module: AgentModule,
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
    start_logging();
    let kind = match kind {
        ModuleKind::Helper => AgentModuleKind::Helper,
        _ => AgentModuleKind::Manager,
    };
    let parameters = Parameters::decode(parameters).map_err(|error| error.to_string())?;
    let variable = |name: &str| std::env::var(name).ok();
    let config = AgentModuleConfig::read(kind, parameters, variable);
    let config = config.map_err(|error| with_causes(&error))?;
    let module = AgentModule::start(config).map_err(|error| with_causes(&error))?;
    Ok(BackgroundModule { _module: module })
}

/// Starts logging to standard error, like the agent. `CONTRAIL_MESOS_LOG` sets the level, by default
/// `info`.
fn start_logging() {
    let environment = env_logger::Env::new().filter_or("CONTRAIL_MESOS_LOG", "info");
    // Fails if there already is a logger, which is then used.
    let _ = env_logger::Builder::from_env(environment)
        .format(|out, record| {
            let time = out.timestamp();
            log_line::write(out, time, record)
        })
        .try_init();
}
