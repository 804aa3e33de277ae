//! The fence around everything that this manager writes: nothing passes it but in a term in which
//! this manager leads.
//!
//! Invariants:
//! - Work that was begun in a term is dropped before its next step once that term is over, or once
//!   its lease has not been renewed in time. It is never resumed, not even in a later term of the
//!   same manager: what it had read may be somebody else's by then.
//! - The lease is looked at whenever the work goes on, and not by a timer alone: a manager that was
//!   stopped for an hour and wakes up writes nothing.
//! - What has been sent by then may still be carried out, for the API server knows no terms. Every
//!   write is idempotent and the objects' names are the same in every manager, so that what is late
//!   is found by the next who looks.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::ManagerError;
use contrail_mesos_api::http::Address;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This manager.
    Leading {
        /// Rises with every leader.
        term: u64,
    },
    /// Another one.
    Following {
        /// Where agents ask it.
        leader: Address,
    },
    /// Nobody that is known.
    Unknown {
        /// Why not.
        reason: String,
    },
}

/// The right to write, and until when.
#[derive(Clone, Copy, Debug)]
struct Lease {
    term: u64,
    /// For ever without a date.
    until: Option<Instant>,
}

/// What the one who decides and those who write share.
#[derive(Debug, Default)]
struct Held(Mutex<Option<Lease>>, Mutex<Vec<String>>);

impl Held {
    fn lease(&self) -> MutexGuard<'_, Option<Lease>> {
        // It is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn term(&self) -> Option<u64> {
        let lease = (*self.lease())?;
        let over = lease.until.is_some_and(|until| Instant::now() >= until);
        (!over).then_some(lease.term)
    }
}

/// The fence. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Fence {
    leadership: watch::Receiver<Leadership>,
    held: Arc<Held>,
}

/// The one who opens and closes it.
#[derive(Debug)]
pub(super) struct Keeper {
    leadership: watch::Sender<Leadership>,
    held: Arc<Held>,
}

/// A fence, closed, and its keeper.
pub(super) fn fence(reason: &str) -> (Keeper, Fence) {
    let (sender, leadership) = watch::channel(Leadership::Unknown {
        reason: reason.to_owned(),
    });
    let held = Arc::new(Held::default());
    let keeper = Keeper {
        leadership: sender,
        held: held.clone(),
    };
    (keeper, Fence { leadership, held })
}

impl Keeper {
    /// Opens the fence, or keeps it open, until then.
    pub(super) fn lead(&self, term: u64, until: Option<Instant>) {
        *self.held.lease() = Some(Lease { term, until });
        self.say(Leadership::Leading { term });
    }

    /// The managers that stand for election, in their order.
    pub(super) fn know(&self, managers: Vec<String>) {
        *self.held.1.lock().unwrap_or_else(PoisonError::into_inner) = managers;
    }

    /// Closes the fence: another manager leads.
    pub(super) fn follow(&self, leader: Address) {
        *self.held.lease() = None;
        self.say(Leadership::Following { leader });
    }

    /// Closes the fence: nobody is known to lead.
    pub(super) fn close(&self, reason: impl Into<String>) {
        *self.held.lease() = None;
        let reason = reason.into();
        self.say(Leadership::Unknown { reason });
    }

    fn say(&self, now: Leadership) {
        self.leadership.send_if_modified(|before| {
            if *before == now {
                return false;
            }
            match &now {
                Leadership::Leading { term } => log::info!(term; "leading"),
                Leadership::Following { leader } => log::info!(leader:%; "following"),
                Leadership::Unknown { reason } => log::warn!(reason:%; "nothing is written"),
            }
            *before = now;
            true
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close("it stands for election no longer");
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
            held: Arc::new(Held(Mutex::new(Some(lease)), Mutex::default())),
        }
    }

    /// Who writes, and every change of that. It says that this manager leads until the lease is
    /// known to have ended; what counts for a write is [`Fence::hold`].
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// How long this manager may still write, unless its lease is renewed; none where it may for
    /// ever, or does not lead.
    pub(super) fn lease_left(&self) -> Option<Duration> {
        let until = (*self.held.lease())?.until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// The managers that stand for election, in their order, as far as this one knows.
    pub(super) fn candidates(&self) -> Vec<String> {
        let managers = self.held.1.lock().unwrap_or_else(PoisonError::into_inner);
        managers.clone()
    }

    /// The term in which this manager may write now.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.held.term()
    }

    /// Does work that writes, for as long as the term lasts in which it is begun.
    pub async fn hold<T>(
        &self,
        work: impl Future<Output = Result<T, ManagerError>>,
    ) -> Result<T, ManagerError> {
        let Some(term) = self.term() else {
            return Err(self.closed());
        };
        let mut work = pin!(work);
        let mut over = pin!(self.over(term));
        std::future::poll_fn(|context| {
            if over.as_mut().poll(context).is_ready() || self.term() != Some(term) {
                return Poll::Ready(Err(self.closed()));
            }
            work.as_mut().poll(context)
        })
        .await
    }

    /// Waits until this manager leads in that term no longer.
    pub async fn over(&self, term: u64) {
        let mut leadership = self.leadership.clone();
        let over = leadership.wait_for(|now| *now != Leadership::Leading { term });
        if over.await.is_err() && self.term() == Some(term) {
            // Without a keeper it is open for good.
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

    /// Work that counts its steps, a second each.
    async fn steps(done: &AtomicUsize) -> Result<(), ManagerError> {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_with_its_term_and_not_before() {
        let (keeper, fence) = fence("it has just started");
        let done = AtomicUsize::new(0);
        let refused = fence.hold(steps(&done)).await.unwrap_err();
        assert!(refused.to_string().contains("just started"), "{refused}");
        assert_eq!(done.load(Ordering::Relaxed), 0);
        let until = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
        keeper.lead(1, until(3600));
        fence.hold(steps(&done)).await.unwrap();
        assert_eq!(done.swap(0, Ordering::Relaxed), 10);
        // Lost and regained at once, in another term: it is not the same.
        let change = async {
            tokio::time::sleep(Duration::from_millis(3500)).await;
            keeper.close("lost");
            keeper.lead(2, until(3600));
        };
        let (held, ()) = tokio::join!(fence.hold(steps(&done)), change);
        assert!(held.is_err());
        assert_eq!(done.swap(0, Ordering::Relaxed), 3);
        assert_eq!(fence.term(), Some(2));
        drop(keeper);
        assert_eq!(fence.term(), None);
        fence.over(2).await;
        assert!(fence.hold(steps(&done)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_ended_ends_the_work_though_nobody_said_so() {
        let (keeper, fence) = fence("");
        keeper.lead(1, Some(Instant::now() + Duration::from_millis(4500)));
        let done = AtomicUsize::new(0);
        let over = fence.hold(steps(&done)).await.unwrap_err();
        assert!(over.to_string().contains("confirmed"), "{over}");
        assert_eq!(done.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn alone_it_is_always_open() {
        let fence = Fence::alone();
        let done = AtomicUsize::new(0);
        fence.hold(steps(&done)).await.unwrap();
        assert_eq!(fence.term(), Some(0));
    }
}
