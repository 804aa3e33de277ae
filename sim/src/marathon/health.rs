//! The health of a task by one of its checks: pure.

use serde_json::{Value, json};

use crate::harness::clock::Timestamp;

/// What a check has found so far. Without a result it is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct Health {
    pub first_success: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    pub last_failure: Option<Timestamp>,
    pub last_failure_cause: Option<String>,
    pub consecutive_failures: u32,
}

impl Health {
    /// Whether the last check succeeded.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.last_success.is_some() && self.consecutive_failures == 0
    }

    /// Whether there has been a result.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.last_success.is_some() || self.last_failure.is_some()
    }

    /// Adds a result: success, or the cause of the failure.
    pub fn add(&mut self, result: Result<(), String>, now: Timestamp) {
        match result {
            Ok(()) => {
                self.first_success.get_or_insert(now);
                self.last_success = Some(now);
                self.consecutive_failures = 0;
            }
            Err(cause) => {
                self.last_failure = Some(now);
                self.last_failure_cause = Some(cause);
                self.consecutive_failures += 1;
            }
        }
    }

    /// As in `healthCheckResults` of a task.
    #[must_use]
    pub fn result(&self, instance: &str) -> Value {
        let mut result = json!({
            "alive": self.is_alive(),
            "consecutiveFailures": self.consecutive_failures,
            "instanceId": instance,
        });
        for (name, time) in [
            ("firstSuccess", self.first_success),
            ("lastSuccess", self.last_success),
            ("lastFailure", self.last_failure),
        ] {
            if let Some(time) = time {
                result[name] = json!(time);
            }
        }
        if let Some(cause) = &self.last_failure_cause {
            result["lastFailureCause"] = json!(cause);
        }
        result
    }
}
