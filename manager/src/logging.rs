//! The program's log: text or JSON, one line an outcome, and a filter that can be changed at run
//! time.

use std::io::Write as _;
use std::sync::{OnceLock, PoisonError, RwLock};

use log::{LevelFilter, Log, Metadata, Record};
use serde_json::{Map, Value};

/// Said where the log is some other program's.
pub(super) const NOT_OURS: &str = "the log is not the manager's own";

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

struct Switch {
    format: LogFormat,
    current: RwLock<(String, env_logger::Logger)>,
}

static SWITCH: OnceLock<Switch> = OnceLock::new();

/// Begins to log. The filter is written as `RUST_LOG` is: `info`, `warn,contrail_mesos=debug`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    check(filter)?;
    let logger = build(format, filter);
    let level = logger.filter();
    let switch = SWITCH.get_or_init(|| Switch {
        format,
        current: RwLock::new((filter.to_owned(), logger)),
    });
    log::set_logger(switch).map_err(|_| LogError::Taken)?;
    log::set_max_level(level);
    Ok(())
}

/// Why the log stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another logger is there.
    #[error("{NOT_OURS}")]
    Taken,
    /// The filter is none.
    #[error(
        "{0:?} is not what to log: write off, error, warn, info, debug or trace, or such as \
         \"info,contrail_mesos=debug\""
    )]
    Filter(String),
}

/// What is logged.
pub(super) fn filter() -> Option<String> {
    let switch = SWITCH.get()?;
    let current = switch
        .current
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    Some(current.0.clone())
}

/// Changes what is logged.
pub fn set_filter(filter: &str) -> Result<(), LogError> {
    check(filter)?;
    let switch = SWITCH.get().ok_or(LogError::Taken)?;
    let logger = build(switch.format, filter);
    let level = logger.filter();
    let mut current = switch
        .current
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    *current = (filter.to_owned(), logger);
    drop(current);
    log::set_max_level(level);
    Ok(())
}

/// The logger itself would take what it does not understand for a module's name.
pub(super) fn check(filter: &str) -> Result<(), LogError> {
    let right = filter.split(',').all(|part| {
        let (module, level) = part.trim().rsplit_once('=').unwrap_or(("all", part.trim()));
        let named = module
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte));
        named && !module.is_empty() && level.parse::<LevelFilter>().is_ok()
    });
    if right {
        Ok(())
    } else {
        Err(LogError::Filter(filter.to_owned()))
    }
}

fn build(format: LogFormat, filter: &str) -> env_logger::Logger {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    if format == LogFormat::Json {
        builder.format(|out, record| {
            let line = json(record, &out.timestamp_micros().to_string());
            writeln!(out, "{line}")
        });
    }
    builder.build()
}

impl Log for Switch {
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

/// What belongs to a record.
struct Fields(Map<String, Value>);

impl<'kvs> log::kv::VisitSource<'kvs> for Fields {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        let json = if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_i64() {
            number.into()
        } else if let Some(truth) = value.to_bool() {
            truth.into()
        } else {
            value.to_string().into()
        };
        // What is ours is not taken for the record's own.
        let key = match key.as_str() {
            own @ ("time" | "level" | "target" | "message") => format!("{own}_"),
            other => other.to_owned(),
        };
        self.0.insert(key, json);
        Ok(())
    }
}

fn json(record: &Record<'_>, time: &str) -> Value {
    let mut fields = Fields(Map::new());
    fields.0.insert("time".to_owned(), time.into());
    fields
        .0
        .insert("level".to_owned(), record.level().as_str().into());
    fields.0.insert("target".to_owned(), record.target().into());
    fields
        .0
        .insert("message".to_owned(), record.args().to_string().into());
    // A value that cannot be shown is left out; the line is worth more than that.
    let _ = record.key_values().visit(&mut fields);
    Value::Object(fields.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_understood_or_refused() {
        for right in [
            "info",
            "OFF",
            "warn,contrail_mesos=debug",
            "a::b=trace, info",
        ] {
            assert!(check(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "loud",
            "contrail_mesos=",
            "=info",
            "info,",
            "a b=info",
            "info/x",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        assert!(set_filter("loud").is_err());
    }

    #[test]
    fn a_line_of_json_holds_everything() {
        let fields = [("container", "c\"1"), ("message", "x")];
        let fields: &[(&str, &str)] = &fields;
        let record = Record::builder()
            .args(format_args!("ports made\nor not"))
            .level(log::Level::Warn)
            .target("t")
            .key_values(&fields)
            .build();
        let line = json(&record, "now").to_string();
        assert!(!line.contains('\n'), "{line}");
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["message"], "ports made\nor not");
        assert_eq!(line["message_"], "x");
        assert_eq!(line["container"], "c\"1");
        assert_eq!(
            (&line["level"], &line["time"]),
            (&"WARN".into(), &"now".into())
        );
    }
}
