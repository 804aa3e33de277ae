//! Waiting for what other processes and the kernel do.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::agent::WAIT_TIMEOUT;

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Looks for something until it is there. `what` completes "gave up waiting until". An error counts as
/// nothing found, and the last one is reported.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    let mut last = None;
    while started.elapsed() < WAIT_TIMEOUT {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => last = None,
            Err(error) => last = Some(error),
        }
        sleep(POLL_INTERVAL);
    }
    let gave_up = format!("gave up waiting until {what}");
    Err(last.map_or_else(
        || anyhow::anyhow!(gave_up.clone()),
        |error| error.context(gave_up.clone()),
    ))
}
