//! The log of the manager: lines of text or of JSON, and a filter that can change at run time.
//!
//! Durations are fields in milliseconds: see `millis`.

use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::Duration;

use contrail_mesos_api::log_line;
use log::{LevelFilter, Log, Metadata, Record};

/// Reported if another logger is installed.
pub(super) const NOT_OURS: &str = "another logger is installed";

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `time level target message key=value …`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A logger whose filter can change.
struct ReloadableLogger {
    format: LogFormat,
    /// The filter and the logger that applies it.
    current: RwLock<(String, env_logger::Logger)>,
}

static LOGGER: OnceLock<ReloadableLogger> = OnceLock::new();

/// A duration as a field, in milliseconds with microsecond precision.
pub(crate) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// Installs the logger. The filter has the syntax of `RUST_LOG`: `info`, `warn,contrail_mesos=debug`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    check(filter)?;
    let logger = build(format, filter);
    let level = logger.filter();
    let reloadable = LOGGER.get_or_init(|| ReloadableLogger {
        format,
        current: RwLock::new((filter.to_owned(), logger)),
    });
    log::set_logger(reloadable).map_err(|_| LogError::OtherLogger)?;
    log::set_max_level(level);
    Ok(())
}

/// Why the logger cannot be installed or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another logger is installed.
    #[error("{NOT_OURS}")]
    OtherLogger,
    /// The filter is invalid.
    #[error(
        "{0:?} is not a log filter: write off, error, warn, info, debug or trace, or a list such as \
         \"info,contrail_mesos=debug\""
    )]
    Filter(String),
}

/// The current filter.
pub(super) fn filter() -> Option<String> {
    let current = LOGGER
        .get()?
        .current
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    Some(current.0.clone())
}

/// Changes the filter.
pub fn set_filter(filter: &str) -> Result<(), LogError> {
    check(filter)?;
    let reloadable = LOGGER.get().ok_or(LogError::OtherLogger)?;
    let logger = build(reloadable.format, filter);
    let level = logger.filter();
    let mut current = reloadable
        .current
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    *current = (filter.to_owned(), logger);
    drop(current);
    log::set_max_level(level);
    Ok(())
}

/// Validates a filter: `env_logger` takes an unknown level for the name of a module.
pub(super) fn check(filter: &str) -> Result<(), LogError> {
    let valid = filter.split(',').all(|part| {
        let (module, level) = part.trim().rsplit_once('=').unwrap_or(("all", part.trim()));
        let named = module
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte));
        named && !module.is_empty() && level.parse::<LevelFilter>().is_ok()
    });
    if valid {
        Ok(())
    } else {
        Err(LogError::Filter(filter.to_owned()))
    }
}

fn build(format: LogFormat, filter: &str) -> env_logger::Logger {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    match format {
        LogFormat::Text => builder.format(|out, record| {
            let time = out.timestamp();
            log_line::write(out, time, record)
        }),
        LogFormat::Json => builder.format(|out, record| {
            let time = out.timestamp_micros();
            log_line::write_json(out, time, record)
        }),
    };
    builder.build()
}

impl Log for ReloadableLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.1.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.1.log(record);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_filters_are_rejected() {
        for valid in [
            "info",
            "OFF",
            "warn,contrail_mesos=debug",
            "a::b=trace, info",
        ] {
            assert!(check(valid).is_ok(), "{valid}");
        }
        for invalid in [
            "",
            "loud",
            "contrail_mesos=",
            "=info",
            "info,",
            "a b=info",
            "info/x",
        ] {
            assert!(check(invalid).is_err(), "{invalid}");
        }
        assert!(set_filter("loud").is_err());
    }
}
