//! Round-robin turns between threads: one works at a time, always in the same order.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Debug)]
struct Round {
    /// Who still takes part.
    there: Vec<bool>,
    next: usize,
}

impl Round {
    fn pass_on(&mut self) {
        let count = self.there.len();
        let others = (1..=count).map(|step| (self.next + step) % count);
        if let Some(next) = others.into_iter().find(|other| self.there[*other]) {
            self.next = next;
        }
    }
}

/// One thread's place in the round. When it is dropped, the others go on without it.
#[derive(Debug)]
pub(crate) struct Turn {
    round: Arc<(Mutex<Round>, Condvar)>,
    own: usize,
}

/// As many places as there are threads.
pub(crate) fn take_turns(count: usize) -> Vec<Turn> {
    let round = Round {
        there: vec![true; count],
        next: 0,
    };
    let round = Arc::new((Mutex::new(round), Condvar::new()));
    (0..count)
        .map(|own| Turn {
            round: Arc::clone(&round),
            own,
        })
        .collect()
}

impl Turn {
    /// Waits for its turn, works, and passes the turn on.
    pub(crate) fn take<T>(&self, work: impl FnOnce() -> T) -> T {
        let (round, changed) = &*self.round;
        let mine = changed.wait_while(
            round.lock().unwrap_or_else(PoisonError::into_inner),
            |round| round.next != self.own,
        );
        // Not held during the work: the others wait for their turns.
        drop(mine);
        let done = work();
        round
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pass_on();
        changed.notify_all();
        done
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (round, changed) = &*self.round;
        let mut round = round.lock().unwrap_or_else(PoisonError::into_inner);
        round.there[self.own] = false;
        if round.next == self.own {
            round.pass_on();
        }
        changed.notify_all();
    }
}
