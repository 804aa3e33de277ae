//! Printing: the reader of the output may stop, and a disk may be full.

use std::io::{self, ErrorKind, Write as _};

use anyhow::{Context as _, Result};
use contrail_mesos::provider::PortMapping;

/// The version of the JSON that commands print. It grows when a field is removed, or means something
/// else; fields that are added leave it as it is.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Prints text. It is no error that nobody reads it to its end, as in `status | head -1`.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(()),
    }
}

/// Prints a line to the standard error, if that is possible.
pub(crate) fn print_error(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A mapped port, as the option --port has it.
pub(crate) fn port_text(port: PortMapping) -> String {
    format!(
        "{}:{}/{}",
        port.host_port, port.container_port, port.protocol
    )
}
