//! What several commands print.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use contrail_mesos::provider::PortMapping;
use contrail_mesos_api::command_line;
pub(crate) use contrail_mesos_api::program::print_error;

/// The version of the JSON that commands print. It grows when a field is removed, or means something
/// else; fields that are added leave it as it is.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Prints text. It is no error that nobody reads it to its end, as in `status | head -1`.
pub(crate) fn print(text: &str) -> Result<()> {
    Ok(command_line::print(text)?)
}

/// Whether only results and problems are printed.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// From now on only results and problems are printed.
pub(crate) fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// Whether only results and problems are printed.
pub(crate) fn is_quiet() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
}

/// Prints that something was done, unless that is not wanted.
pub(crate) fn confirm(text: &str) -> Result<()> {
    if is_quiet() { Ok(()) } else { print(text) }
}

/// A mapped port, as the option --port has it.
pub(crate) fn port_text(port: PortMapping) -> String {
    format!(
        "{}:{}/{}",
        port.host_port, port.container_port, port.protocol
    )
}
