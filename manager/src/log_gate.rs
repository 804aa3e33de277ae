//! Keeps peers from flooding the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Of how many addresses the last line is known.
const MAX_ADDRESSES: usize = 1024;

/// Lets one of several lines about an address through in each interval.
#[derive(Debug)]
pub(crate) struct LogGate {
    interval: Duration,
    /// When the last line was logged, and how many were left out since.
    last: Mutex<HashMap<Option<IpAddr>, (Instant, u64)>>,
}

impl LogGate {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: Mutex::default(),
        }
    }

    /// Whether to log a line about this address now: if so, how many were left out before it.
    pub(crate) fn pass(&self, address: Option<IpAddr>) -> Option<u64> {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, left_out)) = last.get_mut(&address) {
            if now.duration_since(*at) < self.interval {
                *left_out += 1;
                return None;
            }
            let before = *left_out;
            (*at, *left_out) = (now, 0);
            return Some(before);
        }
        if last.len() >= MAX_ADDRESSES {
            last.retain(|_, (at, _)| now.duration_since(*at) < self.interval);
        }
        // With more addresses than that, those that are new are left out.
        if last.len() >= MAX_ADDRESSES {
            return None;
        }
        last.insert(address, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gate_passes_one_line_of_an_address_in_an_interval() {
        let gate = LogGate::new(Duration::from_secs(10));
        let address = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        assert_eq!(gate.pass(address(1)), Some(0));
        assert_eq!((gate.pass(address(1)), gate.pass(address(1))), (None, None));
        assert_eq!(gate.pass(address(2)), Some(0));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(gate.pass(address(1)), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn gate_remembers_a_bounded_number_of_addresses() {
        let gate = LogGate::new(Duration::from_secs(10));
        let passed = (0..100_000_u32).filter(|number| {
            gate.pass(Some(IpAddr::from(number.to_be_bytes())))
                .is_some()
        });
        assert_eq!(passed.count(), MAX_ADDRESSES);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(gate.pass(Some([255, 0, 0, 1].into())), Some(0));
    }
}
