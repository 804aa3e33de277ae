//! The panic guard: what panics becomes a reason that names the call and the place.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic becomes an error. For work that leaves nothing half-changed behind, or
/// nothing that is looked at again.
pub(super) fn guard<T>(what: &str, f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    remember_places();
    panic::catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|payload| Err(describe(what, payload.as_ref())))
}

/// What a panic says to the operator. To be called on the thread that caught it.
pub(super) fn describe(what: &str, payload: &(dyn Any + Send)) -> String {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let place = PLACE
        .take()
        .unwrap_or_else(|| "an unknown place".to_owned());
    let text = format!(
        "contrail-mesos: {what} panicked at {place}: {message}. This is a bug of contrail-mesos; \
         other containers are not affected. Please report it with the agent's log."
    );
    log::error!("{text}");
    text
}

/// Keeps the place of a thread's last panic, which the payload does not have. The standard
/// library is linked into our own library, so this is nobody else's hook.
pub(super) fn remember_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string);
            // A thread that is ending has no such variable any more.
            let _ = PLACE.try_with(|cell| cell.replace(place));
            before(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_reason_with_its_place() {
        let reason = guard("prepare of container c1", || -> Result<(), String> {
            panic!("no bridge {}", 7)
        })
        .unwrap_err();
        assert!(reason.contains("prepare of container c1 panicked at src/module/guard.rs:"));
        assert!(reason.contains("no bridge 7"), "{reason}");
    }
}
