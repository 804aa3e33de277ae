//! When agents asked for containers: what they have just asked for lives, whatever others say.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// How long a question is remembered; longer than anything is young.
const REMEMBERED: Duration = Duration::from_hours(24);
/// From so many on, old ones are looked for now and then.
const MANY: usize = 1024;

/// When each container was last asked for.
#[derive(Debug, Default)]
pub(super) struct Puts(Mutex<(HashMap<Uuid, Instant>, usize)>);

impl Puts {
    pub(super) fn note(&self, machine: Uuid) {
        let now = Instant::now();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (puts, most) = &mut *held;
        puts.insert(machine, now);
        if puts.len() > (*most).max(MANY) {
            puts.retain(|_, at| now - *at < REMEMBERED);
            *most = puts.len() * 2;
        }
    }

    pub(super) fn forget(&self, machine: Uuid) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.0.remove(&machine);
    }

    pub(super) fn get(&self, machine: Uuid) -> Option<Instant> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.0.get(&machine).copied()
    }
}
