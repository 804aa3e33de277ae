//! The fence around everything that this manager writes: work passes only in a term in which this
//! manager leads.
//!
//! Invariants:
//! - Work that began in a term is dropped before its next step once that term has ended or its lease
//!   has expired. It is never resumed, not even in a later term of the same manager: another leader
//!   may have changed what it had read.
//! - The lease is checked whenever the work is polled, not only by a timer: a manager that was
//!   suspended for an hour writes nothing when it resumes.
//! - A request that was sent before the end of the term may still take effect, because the API server
//!   knows no terms. Every write is idempotent and object names are the same in every manager, so the
//!   next leader finds what a late request created.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::ManagerError;
use contrail_mesos_api::http::Address;

/// Which manager writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This manager.
    Leading {
        /// Increases with every leader.
        term: u64,
    },
    /// Another manager.
    Following {
        /// Its URL for agents.
        leader: Address,
    },
    /// No leader is known.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// The right to write.
#[derive(Clone, Copy, Debug)]
struct Lease {
    term: u64,
    /// When it expires; never if none.
    until: Option<Instant>,
}

/// What a fence and its control share.
#[derive(Debug, Default)]
struct Shared {
    lease: Mutex<Option<Lease>>,
    candidates: Mutex<Vec<String>>,
}

impl Shared {
    fn lease(&self) -> MutexGuard<'_, Option<Lease>> {
        // A lease is replaced as a whole, so a poisoned lock holds a valid one.
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn candidates(&self) -> MutexGuard<'_, Vec<String>> {
        self.candidates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn term(&self) -> Option<u64> {
        let lease = (*self.lease())?;
        let expired = lease.until.is_some_and(|until| Instant::now() >= until);
        (!expired).then_some(lease.term)
    }
}

/// A fence. Clones share its state.
#[derive(Clone, Debug)]
pub struct Fence {
    leadership: watch::Receiver<Leadership>,
    shared: Arc<Shared>,
}

/// Opens and closes a fence.
#[derive(Debug)]
pub(super) struct FenceControl {
    leadership: watch::Sender<Leadership>,
    shared: Arc<Shared>,
}

/// A closed fence and its control.
pub(super) fn fence(reason: &str) -> (FenceControl, Fence) {
    let (sender, leadership) = watch::channel(Leadership::Unknown {
        reason: reason.to_owned(),
    });
    let shared = Arc::new(Shared::default());
    let control = FenceControl {
        leadership: sender,
        shared: shared.clone(),
    };
    (control, Fence { leadership, shared })
}

impl FenceControl {
    /// Opens the fence, or keeps it open, until the lease expires.
    pub(super) fn lead(&self, term: u64, until: Option<Instant>) {
        *self.shared.lease() = Some(Lease { term, until });
        self.announce(Leadership::Leading { term });
    }

    /// Sets the URLs of all candidates, in the order in which they will lead.
    pub(super) fn set_candidates(&self, candidates: Vec<String>) {
        *self.shared.candidates() = candidates;
    }

    /// Closes the fence: another manager leads.
    pub(super) fn follow(&self, leader: Address) {
        *self.shared.lease() = None;
        self.announce(Leadership::Following { leader });
    }

    /// Closes the fence: no leader is known.
    pub(super) fn close(&self, reason: impl Into<String>) {
        *self.shared.lease() = None;
        let reason = reason.into();
        self.announce(Leadership::Unknown { reason });
    }

    fn announce(&self, now: Leadership) {
        self.leadership.send_if_modified(|before| {
            if *before == now {
                return false;
            }
            match &now {
                Leadership::Leading { term } => log::info!(term; "leading"),
                Leadership::Following { leader } => log::info!(leader:%; "following"),
                Leadership::Unknown { reason } => {
                    log::warn!(reason:%; "no leader is known; nothing is written");
                }
            }
            *before = now;
            true
        });
    }
}

impl Drop for FenceControl {
    fn drop(&mut self) {
        self.close("it is no longer a candidate");
    }
}

impl Fence {
    /// Always open: there is no other manager.
    #[must_use]
    pub fn alone() -> Self {
        let lease = Lease {
            term: 0,
            until: None,
        };
        let (_, leadership) = watch::channel(Leadership::Leading { term: 0 });
        Self {
            leadership,
            shared: Arc::new(Shared {
                lease: Mutex::new(Some(lease)),
                candidates: Mutex::default(),
            }),
        }
    }

    /// Never open: nothing is written, because of this reason.
    #[must_use]
    pub(super) fn read_only(reason: &str) -> Self {
        let reason = reason.to_owned();
        let (_, leadership) = watch::channel(Leadership::Unknown { reason });
        Self {
            leadership,
            shared: Arc::default(),
        }
    }

    /// Which manager leads, and every change of that. It may still name this manager for a moment
    /// after the lease has expired; only [`Fence::run_in_term`] guards writes.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// How long until the lease expires; none if it never does or if this manager does not lead.
    pub(super) fn lease_left(&self) -> Option<Duration> {
        let until = (*self.shared.lease())?.until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// The URLs of all candidates that this manager knows, in the order in which they will lead.
    pub(super) fn candidates(&self) -> Vec<String> {
        self.shared.candidates().clone()
    }

    /// The term in which this manager may write now.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.shared.term()
    }

    /// Runs work that writes. Drops it and fails if the current term ends first.
    pub async fn run_in_term<T>(
        &self,
        work: impl Future<Output = Result<T, ManagerError>>,
    ) -> Result<T, ManagerError> {
        let Some(term) = self.term() else {
            return Err(self.closed());
        };
        let mut work = pin!(work);
        let mut ended = pin!(self.term_ended(term));
        std::future::poll_fn(|context| {
            if ended.as_mut().poll(context).is_ready() || self.term() != Some(term) {
                return Poll::Ready(Err(self.closed()));
            }
            work.as_mut().poll(context)
        })
        .await
    }

    /// Waits until this manager no longer leads in that term.
    pub async fn term_ended(&self, term: u64) {
        let mut leadership = self.leadership.clone();
        let ended = leadership.wait_for(|now| *now != Leadership::Leading { term });
        if ended.await.is_err() && self.term() == Some(term) {
            // Without a control the fence never closes.
            std::future::pending::<()>().await;
        }
    }

    fn closed(&self) -> ManagerError {
        ManagerError::NotLeading(match &*self.leadership.borrow() {
            Leadership::Leading { .. } => "ZooKeeper has not confirmed that it leads".to_owned(),
            Leadership::Following { leader } => format!("{leader} leads"),
            Leadership::Unknown { reason } => reason.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Work of ten steps, a second each, that counts them.
    async fn steps(done: &AtomicUsize) -> Result<(), ManagerError> {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_when_its_term_ends() {
        let (control, fence) = fence("it has just started");
        let done = AtomicUsize::new(0);
        let error = fence.run_in_term(steps(&done)).await.unwrap_err();
        assert!(error.to_string().contains("just started"), "{error}");
        assert_eq!(done.load(Ordering::Relaxed), 0);
        let until = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
        control.lead(1, until(3600));
        fence.run_in_term(steps(&done)).await.unwrap();
        assert_eq!(done.swap(0, Ordering::Relaxed), 10);
        // Leadership is lost and regained at once: the new term does not continue the work.
        let change = async {
            tokio::time::sleep(Duration::from_millis(3500)).await;
            control.close("lost");
            control.lead(2, until(3600));
        };
        let (result, ()) = tokio::join!(fence.run_in_term(steps(&done)), change);
        assert!(result.is_err());
        assert_eq!(done.swap(0, Ordering::Relaxed), 3);
        assert_eq!(fence.term(), Some(2));
        drop(control);
        assert_eq!(fence.term(), None);
        fence.term_ended(2).await;
        assert!(fence.run_in_term(steps(&done)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_when_the_lease_expires_without_notice() {
        let (control, fence) = fence("");
        control.lead(1, Some(Instant::now() + Duration::from_millis(4500)));
        let done = AtomicUsize::new(0);
        let error = fence.run_in_term(steps(&done)).await.unwrap_err();
        assert!(error.to_string().contains("confirmed"), "{error}");
        assert_eq!(done.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn fence_without_election_is_always_open() {
        let fence = Fence::alone();
        let done = AtomicUsize::new(0);
        fence.run_in_term(steps(&done)).await.unwrap();
        assert_eq!(fence.term(), Some(0));
    }
}
