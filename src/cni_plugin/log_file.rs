//! The log file of the configuration. A call succeeds even if the log cannot be written.

use std::fs::{self, OpenOptions};
use std::path::Path;

use contrail_mesos_api::log_line;

use super::config::Settings;

/// The size at which the file is rotated to `.1`.
const MAX_LOG_BYTES: u64 = 10 << 20;

/// Starts to log. Without a file only warnings are logged, to the standard error.
pub(super) fn start(settings: &Settings) {
    let mut builder = env_logger::Builder::new();
    builder.format(|out, record| {
        let time = out.timestamp();
        log_line::write(out, time, record)
    });
    let file = settings.log_file.as_deref().and_then(open);
    match file {
        Some(file) => builder
            .filter_level(settings.log_level)
            .target(env_logger::Target::Pipe(Box::new(file))),
        None => builder.filter_level(log::LevelFilter::Warn),
    };
    // Fails in tests, whose process has a logger already.
    let _ = builder.try_init();
}

fn open(path: &Path) -> Option<fs::File> {
    if let Some(directory) = path.parent() {
        // If this fails, so does opening the file.
        let _ = fs::create_dir_all(directory);
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        // If this fails, the file keeps growing.
        let _ = fs::rename(path, old);
    }
    OpenOptions::new().create(true).append(true).open(path).ok()
}
