//! A future that the agent waits for, from the call to its answer.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cxx::UniquePtr;
use futures::FutureExt as _;
use tokio::task::AbortHandle;

use super::bridge::ffi::Completion;
use super::{guard, runtime};

/// What a future is completed with.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// A serialised message.
    Message(Vec<u8>),
    /// `Nothing`, or `None`.
    Nothing,
}

/// Where answers go: a future of libprocess, or a recorder in tests.
pub(super) trait Sink: Send + 'static {
    /// Completes it with an answer.
    fn answer(&mut self, answer: Answer);
    /// Fails it.
    fn fail(&mut self, reason: &str);
    /// Discards it.
    fn discard(&mut self);
}

impl Sink for UniquePtr<Completion> {
    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Message(bytes) => self.pin_mut().answer(&bytes),
            Answer::Nothing => self.pin_mut().answer_nothing(),
        }
    }

    fn fail(&mut self, reason: &str) {
        self.pin_mut().fail(reason);
    }

    fn discard(&mut self) {
        self.pin_mut().discard();
    }
}

/// What becomes of a future that is lost, by a panic or because its task was dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnLoss {
    /// It fails with the reason.
    Fail,
    /// It stays pending: the agent would destroy the container if its `watch` failed.
    StayPending,
}

/// An unanswered future. Dropped unanswered it is discarded if that was asked for, else lost.
struct Pending<S: Sink> {
    what: String,
    sink: S,
    on_loss: OnLoss,
    cancelled: Arc<AtomicBool>,
    answered: bool,
}

impl<S: Sink> Pending<S> {
    fn finish(mut self, outcome: Result<Answer, String>) {
        self.answered = true;
        match outcome {
            Ok(answer) => self.sink.answer(answer),
            Err(reason) => self.sink.fail(&reason),
        }
    }

    fn lose(&mut self, reason: &str) {
        self.answered = true;
        match self.on_loss {
            OnLoss::Fail => self.sink.fail(reason),
            OnLoss::StayPending => log::error!("{reason}"),
        }
    }
}

impl<S: Sink> Drop for Pending<S> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if self.cancelled.load(Ordering::Acquire) {
            self.sink.discard();
        } else {
            let reason = format!(
                "contrail-mesos: {} was dropped without an answer. This is a bug of \
                 contrail-mesos; please report it with the agent's log.",
                self.what
            );
            self.lose(&reason);
        }
    }
}

/// A call that runs. Dropping it leaves the call alone.
#[derive(Clone)]
pub(super) struct Call {
    cancelled: Arc<AtomicBool>,
    task: Option<AbortHandle>,
}

impl Call {
    /// A call that is over.
    pub(super) fn done() -> Self {
        Self {
            cancelled: Arc::default(),
            task: None,
        }
    }

    /// Stops the call where it is and discards its future; nothing when it is answered already.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Runs `work` on the runtime and completes `sink` with its outcome. `what` names the call for
/// the operator.
pub(super) fn start<S: Sink>(
    what: String,
    sink: S,
    on_loss: OnLoss,
    work: impl Future<Output = Result<Answer, String>> + Send + 'static,
) -> Call {
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut pending = Pending {
        what,
        sink,
        on_loss,
        cancelled: Arc::clone(&cancelled),
        answered: false,
    };
    let task = match runtime::handle() {
        Ok(handle) => handle
            .spawn(async move {
                match AssertUnwindSafe(work).catch_unwind().await {
                    Ok(outcome) => pending.finish(outcome),
                    Err(payload) => {
                        let reason = guard::describe(&pending.what, payload.as_ref());
                        pending.lose(&reason);
                    }
                }
            })
            .abort_handle(),
        Err(reason) => {
            pending.finish(Err(reason));
            return Call {
                cancelled,
                task: None,
            };
        }
    };
    Call {
        cancelled,
        task: Some(task),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Seen {
        Answer(Answer),
        Failed(String),
        Discarded,
    }

    impl Sink for Sender<Seen> {
        fn answer(&mut self, answer: Answer) {
            self.send(Seen::Answer(answer)).unwrap();
        }
        fn fail(&mut self, reason: &str) {
            self.send(Seen::Failed(reason.to_owned())).unwrap();
        }
        fn discard(&mut self) {
            self.send(Seen::Discarded).unwrap();
        }
    }

    fn begin(
        on_loss: OnLoss,
        work: impl Future<Output = Result<Answer, String>> + Send + 'static,
    ) -> (Call, Receiver<Seen>) {
        let (sender, receiver) = channel();
        guard::remember_places();
        (
            start("prepare of c1".to_owned(), sender, on_loss, work),
            receiver,
        )
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn an_answer_arrives_once() {
        let (call, seen) = begin(OnLoss::Fail, async { Ok(Answer::Message(vec![1])) });
        assert_eq!(
            seen.recv_timeout(SOON),
            Ok(Seen::Answer(Answer::Message(vec![1])))
        );
        call.cancel();
        assert!(seen.recv_timeout(SOON).is_err(), "answered twice");
    }

    #[test]
    fn a_cancelled_call_is_dropped_first_and_then_discarded() {
        struct Work(Sender<Seen>);
        impl Drop for Work {
            fn drop(&mut self) {
                self.0.send(Seen::Failed("dropped".to_owned())).unwrap();
            }
        }
        let (sender, seen) = channel();
        let work = Work(sender.clone());
        let call = start("x".to_owned(), sender, OnLoss::Fail, async move {
            std::future::pending::<()>().await;
            drop(work);
            Ok(Answer::Nothing)
        });
        call.cancel();
        assert_eq!(
            seen.recv_timeout(SOON),
            Ok(Seen::Failed("dropped".to_owned()))
        );
        assert_eq!(seen.recv_timeout(SOON), Ok(Seen::Discarded));
    }

    #[test]
    fn a_panic_fails_its_future_only() {
        let (_call, seen) = begin(OnLoss::Fail, async { panic!("hostile") });
        let Ok(Seen::Failed(reason)) = seen.recv_timeout(SOON) else {
            panic!("not failed")
        };
        assert!(
            reason.contains("prepare of c1 panicked at src/module/pending.rs"),
            "{reason}"
        );
        let (_call, seen) = begin(OnLoss::StayPending, async { panic!("hostile") });
        assert!(seen.recv_timeout(SOON).is_err(), "a lost watch was told");
    }
}
