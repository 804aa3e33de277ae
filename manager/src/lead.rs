//! What a leader does at the beginning of each term.
//!
//! Invariants:
//! - The manager serves requests in a term only after it has provisioned the API server and loaded the
//!   allocations in that term.
//! - A term can be regained: if ZooKeeper was away for a moment and no other manager has led meanwhile.
//!   What ended with the leadership begins again then.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use contrail_mesos_api::backoff::Backoff;
use tokio::sync::{Notify, watch};

use super::error::ManagerError;
use super::fence::{Fence, Leadership};

/// Whether the manager serves requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// Why it does not; none if it does.
    pub unready: Option<String>,
    /// When the manager last prepared to lead: when it provisioned the API server, where there is one.
    pub prepared: Option<SystemTime>,
}

impl Readiness {
    /// Before the first term.
    pub(super) fn none() -> Self {
        Self {
            unready: Some("it has just started".to_owned()),
            prepared: None,
        }
    }
}

/// The delays between attempts to prepare a term.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// Runs `before_leading` whenever leadership is gained and whenever `again` is notified, and publishes
/// whether the manager serves requests. The argument besides the term says whether the term is regained:
/// it was prepared already. Ends with the fence.
pub(super) async fn lead<W>(
    fence: Fence,
    ready: watch::Sender<Readiness>,
    again: Arc<Notify>,
    mut before_leading: impl FnMut(u64, bool) -> W,
) where
    W: Future<Output = Result<(), ManagerError>>,
{
    let unready = |reason: String| {
        ready.send_modify(|ready| ready.unready = Some(reason));
    };
    let mut leadership = fence.leadership();
    let mut done = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        let reason = match now {
            Leadership::Leading { term } => {
                let is_regained = done == Some(term);
                unready("it is preparing to lead".to_owned());
                tokio::select! {
                    () = prepare(&fence, (term, is_regained), &unready, &mut before_leading) => {
                        done = Some(term);
                    }
                    () = fence.term_ended(term) => continue,
                }
                if !is_regained {
                    ready.send_modify(|ready| ready.prepared = Some(SystemTime::now()));
                }
                log::info!(term; "ready");
                ready.send_modify(|ready| ready.unready = None);
                // Requests are served meanwhile: provisioning leaves existing objects unchanged.
                let ignore = |_| {};
                loop {
                    tokio::select! {
                        () = fence.term_ended(term) => break,
                        () = again.notified() => tokio::select! {
                            () = fence.term_ended(term) => break,
                            () = prepare(&fence, (term, false), &ignore, &mut before_leading) => {
                                ready.send_modify(|ready| ready.prepared = Some(SystemTime::now()));
                                log::info!(term; "prepared again");
                            }
                        },
                    }
                }
                continue;
            }
            Leadership::Following { leader } => format!("{leader} leads"),
            Leadership::Unknown { reason } => format!("no leader is known: {reason}"),
        };
        unready(reason);
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

async fn prepare<W>(
    fence: &Fence,
    (term, is_regained): (u64, bool),
    unready: &impl Fn(String),
    before_leading: &mut impl FnMut(u64, bool) -> W,
) where
    W: Future<Output = Result<(), ManagerError>>,
{
    let mut delays = BACKOFF.delays();
    while let Err(error) = fence.run_in_term(before_leading(term, is_regained)).await {
        log::error!(error:%; "cannot prepare to lead; retrying");
        unready(format!("it cannot prepare to lead: {error}"));
        tokio::time::sleep(delays.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::fence::fence;

    #[tokio::test(start_paused = true)]
    async fn each_term_is_prepared_with_retries() {
        let (control, fence) = fence("no");
        let (sender, mut ready) = watch::channel(Readiness::none());
        let tries = &*Box::leak(Box::new(AtomicU64::new(0)));
        let regained = &*Box::leak(Box::new(AtomicU64::new(0)));
        let before = move |_, is_regained: bool| async move {
            regained.fetch_add(is_regained.into(), Ordering::Relaxed);
            // The first and the fourth attempt fail.
            match tries.fetch_add(1, Ordering::Relaxed) {
                0 | 3 => Err(ManagerError::InvalidResponse("not yet".to_owned())),
                _ => Ok(()),
            }
        };
        let again = Arc::new(Notify::new());
        tokio::spawn(lead(fence, sender, again.clone(), before));
        for (term, tried, again) in [(1, 2, 0), (1, 3, 1), (2, 5, 1)] {
            control.lead(term, None);
            ready
                .wait_for(|ready| ready.unready.is_none())
                .await
                .unwrap();
            assert_eq!(tries.load(Ordering::Relaxed), tried);
            assert_eq!(regained.load(Ordering::Relaxed), again);
            control.close("lost");
            let lost = ready
                .wait_for(|ready| ready.unready.is_some())
                .await
                .unwrap();
            assert!(lost.unready.as_ref().unwrap().contains("lost"), "{lost:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reprovisioning_does_not_interrupt_serving() {
        let (control, fence) = fence("no");
        let (sender, mut ready) = watch::channel(Readiness::none());
        let tries = &*Box::leak(Box::new(AtomicU64::new(0)));
        let before = move |_, _| async move {
            tries.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let again = Arc::new(Notify::new());
        tokio::spawn(lead(fence, sender, again.clone(), before));
        control.lead(1, None);
        let is_ready = |ready: &Readiness| ready.unready.is_none();
        ready.wait_for(is_ready).await.unwrap();
        again.notify_one();
        ready.changed().await.unwrap();
        assert!(is_ready(&ready.borrow()));
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }
}
