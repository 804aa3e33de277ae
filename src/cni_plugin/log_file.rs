//! The log file that the configuration names. A log that cannot be written stops nothing.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::config::Settings;

/// The size at which the file makes room for a new one, and is kept as `.1`.
const LONGEST: u64 = 10 << 20;

/// Begins to log. Without a file only warnings are told, on the standard error.
pub(super) fn start(settings: &Settings) {
    let mut builder = env_logger::Builder::new();
    let file = settings.log_file.as_deref().and_then(open);
    match file {
        Some(file) => builder
            .filter_level(settings.log_level)
            .target(env_logger::Target::Pipe(Box::new(file))),
        None => builder.filter_level(log::LevelFilter::Warn),
    };
    // There is one already where the plugin is not a program of its own.
    let _ = builder.try_init();
}

fn open(path: &Path) -> Option<fs::File> {
    if let Some(directory) = path.parent() {
        // If it cannot be made, the file cannot be opened.
        let _ = fs::create_dir_all(directory);
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LONGEST) {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        // It grows on where this is not possible.
        let _ = fs::rename(path, old);
    }
    OpenOptions::new().create(true).append(true).open(path).ok()
}
