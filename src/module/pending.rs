//! The futures that the agent waits for, from the call to their completion.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cxx::UniquePtr;
use futures::FutureExt as _;
use tokio::task::AbortHandle;

use super::bridge::ffi::Completion;
use super::{guard, runtime};

/// The value of a future.
#[derive(Debug, PartialEq)]
pub(super) enum Response {
    /// A serialised message.
    Message(Vec<u8>),
    /// `Nothing`, `None` or an empty message, as the type of the future requires.
    Nothing,
}

/// Completes a future: one of libprocess, or a recorder in tests.
pub(super) trait Sink: Send + 'static {
    /// Sets its value.
    fn set(&mut self, response: Response);
    /// Fails the future.
    fn fail(&mut self, reason: &str);
    /// Discards the future.
    fn discard(&mut self);
}

impl Sink for UniquePtr<Completion> {
    fn set(&mut self, response: Response) {
        match response {
            Response::Message(bytes) => self.pin_mut().set(&bytes),
            Response::Nothing => self.pin_mut().set_nothing(),
        }
    }

    fn fail(&mut self, reason: &str) {
        self.pin_mut().fail(reason);
    }

    fn discard(&mut self) {
        self.pin_mut().discard();
    }
}

/// What happens to a future whose call panicked or was dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnLoss {
    /// It fails.
    Fail,
    /// It stays pending: the agent would destroy the container if its `watch` failed.
    StayPending,
}

/// A pending future. If it is dropped, it is discarded if its call was cancelled, else lost.
struct Pending<S: Sink> {
    call: String,
    sink: S,
    on_loss: OnLoss,
    is_cancelled: Arc<AtomicBool>,
    is_completed: bool,
}

impl<S: Sink> Pending<S> {
    fn complete(mut self, result: Result<Response, String>) {
        self.is_completed = true;
        match result {
            Ok(response) => self.sink.set(response),
            Err(reason) => self.sink.fail(&reason),
        }
    }

    fn lose(&mut self, reason: &str) {
        self.is_completed = true;
        if self.on_loss == OnLoss::Fail {
            self.sink.fail(reason);
        }
    }
}

impl<S: Sink> Drop for Pending<S> {
    fn drop(&mut self) {
        if self.is_completed {
            return;
        }
        if self.is_cancelled.load(Ordering::Acquire) {
            self.sink.discard();
        } else {
            let reason = format!(
                "contrail-mesos: {} was dropped before it completed. This is a bug of \
                 contrail-mesos; please report it with the agent's log.",
                self.call
            );
            log::error!("{reason}");
            self.lose(&reason);
        }
    }
}

/// A running call. Dropping it does not stop the call.
#[derive(Clone)]
pub(super) struct Call {
    is_cancelled: Arc<AtomicBool>,
    task: Option<AbortHandle>,
}

impl Call {
    /// A call that has completed.
    pub(super) fn completed() -> Self {
        Self {
            is_cancelled: Arc::default(),
            task: None,
        }
    }

    /// Stops the call and discards its future. Does nothing if it has completed.
    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Runs `work` on the runtime and completes `sink` with its result. `call` names the call in error
/// messages.
pub(super) fn start<S: Sink>(
    call: String,
    sink: S,
    on_loss: OnLoss,
    work: impl Future<Output = Result<Response, String>> + Send + 'static,
) -> Call {
    let is_cancelled = Arc::new(AtomicBool::new(false));
    let mut pending = Pending {
        call,
        sink,
        on_loss,
        is_cancelled: Arc::clone(&is_cancelled),
        is_completed: false,
    };
    let task = match runtime::handle() {
        Ok(handle) => handle
            .spawn(async move {
                match AssertUnwindSafe(work).catch_unwind().await {
                    Ok(result) => pending.complete(result),
                    Err(payload) => {
                        let reason = guard::describe_panic(&pending.call, payload.as_ref());
                        pending.lose(&reason);
                    }
                }
            })
            .abort_handle(),
        Err(reason) => {
            pending.complete(Err(reason));
            return Call {
                is_cancelled,
                task: None,
            };
        }
    };
    Call {
        is_cancelled,
        task: Some(task),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Completion {
        Set(Response),
        Failed(String),
        Discarded,
    }

    impl Sink for Sender<Completion> {
        fn set(&mut self, response: Response) {
            self.send(Completion::Set(response)).unwrap();
        }
        fn fail(&mut self, reason: &str) {
            self.send(Completion::Failed(reason.to_owned())).unwrap();
        }
        fn discard(&mut self) {
            self.send(Completion::Discarded).unwrap();
        }
    }

    fn begin(
        on_loss: OnLoss,
        work: impl Future<Output = Result<Response, String>> + Send + 'static,
    ) -> (Call, Receiver<Completion>) {
        let (sender, receiver) = channel();
        guard::record_panic_locations();
        (
            start("prepare of c1".to_owned(), sender, on_loss, work),
            receiver,
        )
    }

    const COMPLETION_TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn future_is_completed_once() {
        let (call, completions) = begin(OnLoss::Fail, async { Ok(Response::Message(vec![1])) });
        assert_eq!(
            completions.recv_timeout(COMPLETION_TIMEOUT),
            Ok(Completion::Set(Response::Message(vec![1])))
        );
        call.cancel();
        assert!(
            completions.recv_timeout(COMPLETION_TIMEOUT).is_err(),
            "completed twice"
        );
    }

    #[test]
    fn cancelled_call_is_dropped_before_its_future_is_discarded() {
        struct Work(Sender<Completion>);
        impl Drop for Work {
            fn drop(&mut self) {
                self.0
                    .send(Completion::Failed("dropped".to_owned()))
                    .unwrap();
            }
        }
        let (sender, completions) = channel();
        let work = Work(sender.clone());
        let call = start("x".to_owned(), sender, OnLoss::Fail, async move {
            std::future::pending::<()>().await;
            drop(work);
            Ok(Response::Nothing)
        });
        call.cancel();
        assert_eq!(
            completions.recv_timeout(COMPLETION_TIMEOUT),
            Ok(Completion::Failed("dropped".to_owned()))
        );
        assert_eq!(
            completions.recv_timeout(COMPLETION_TIMEOUT),
            Ok(Completion::Discarded)
        );
    }

    #[test]
    fn panic_fails_future_but_leaves_watch_pending() {
        let (_call, completions) = begin(OnLoss::Fail, async { panic!("on purpose") });
        let Ok(Completion::Failed(reason)) = completions.recv_timeout(COMPLETION_TIMEOUT) else {
            panic!("the future did not fail")
        };
        assert!(
            reason.contains("prepare of c1 panicked at src/module/pending.rs"),
            "{reason}"
        );
        let (_call, completions) = begin(OnLoss::StayPending, async { panic!("on purpose") });
        assert!(
            completions.recv_timeout(COMPLETION_TIMEOUT).is_err(),
            "a watch was completed after a panic"
        );
    }
}
