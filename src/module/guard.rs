//! Turns panics into error messages that name the call and the location.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static PANIC_LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic becomes an error. `call` names the call in the message. A panic must leave no
/// inconsistent state that is used again.
pub(super) fn guard<T>(call: &str, f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    record_panic_locations();
    panic::catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|payload| Err(describe_panic(call, payload.as_ref())))
}

/// Logs a panic and returns the message for the operator. Must be called on the thread that
/// panicked.
pub(super) fn describe_panic(call: &str, payload: &(dyn Any + Send)) -> String {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let location = PANIC_LOCATION
        .take()
        .unwrap_or_else(|| "an unknown location".to_owned());
    let message = format!(
        "contrail-mesos: {call} panicked at {location}: {message}. This is a bug of \
         contrail-mesos; other containers are not affected. Please report it with the agent's log."
    );
    log::error!("{message}");
    message
}

/// Records the location of a thread's last panic, which the payload does not have. The panic hook
/// is ours alone: the standard library is linked statically into the module.
pub(super) fn record_panic_locations() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            // Fails on a thread that is ending.
            let _ = PANIC_LOCATION.try_with(|cell| cell.replace(location));
            previous(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_becomes_error_with_call_and_location() {
        let reason = guard("prepare of container c1", || -> Result<(), String> {
            panic!("no bridge {}", 7)
        })
        .unwrap_err();
        assert!(reason.contains("prepare of container c1 panicked at src/module/guard.rs:"));
        assert!(reason.contains("no bridge 7"), "{reason}");
    }
}
