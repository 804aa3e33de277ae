//! Several servers, of which one is used until it fails.
//!
//! Invariant: a failure moves the current server on once, however many calls fail at it.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::Address;
use crate::backoff::{Backoff, Delays};

/// The servers of one API.
#[derive(Debug)]
pub struct Failover {
    servers: Vec<Address>,
    /// The index of the server in use.
    current: AtomicUsize,
}

/// Why an attempt at one server did not succeed.
#[derive(Debug)]
pub enum AttemptError<E> {
    /// The next server, or the same one later, may do better.
    Retry(E),
    /// The server with this index should be tried next.
    Redirect(usize, E),
    /// Another attempt would fail too.
    Final(E),
}

impl Failover {
    /// Servers, the preferred one first.
    #[must_use]
    pub fn new(servers: Vec<Address>) -> Self {
        Self {
            servers,
            current: AtomicUsize::new(0),
        }
    }

    /// All servers, in the order in which they were given.
    #[must_use]
    pub fn servers(&self) -> &[Address] {
        &self.servers
    }

    /// The server in use; none if there are no servers.
    #[must_use]
    pub fn current(&self) -> Option<&Address> {
        self.servers.get(self.current.load(Ordering::Relaxed))
    }

    /// The server in use and its index, for [`Self::leave`]; none if there are no servers.
    #[must_use]
    pub fn current_with_index(&self) -> Option<(usize, &Address)> {
        let index = self.current.load(Ordering::Relaxed);
        Some((index, self.servers.get(index)?))
    }

    /// Stops using the server with this index. Returns the next one if this call made the change
    /// and there is another.
    pub fn leave(&self, index: usize) -> Option<&Address> {
        let next = (index + 1) % self.servers.len().max(1);
        let order = Ordering::Relaxed;
        let moved = self.current.compare_exchange(index, next, order, order);
        (moved.is_ok() && next != index).then(|| &self.servers[next])
    }

    /// Tries each server once, the current one first. Returns the last error; none if there are no
    /// servers.
    pub async fn try_each<T, E, F>(
        &self,
        attempt: impl Fn(usize, Option<E>) -> F,
    ) -> Result<T, Option<E>>
    where
        F: Future<Output = Result<T, AttemptError<E>>>,
    {
        self.run(None, attempt).await
    }

    /// Tries the servers in turn, the current one first, with a delay after each round. The last
    /// round begins shortly before the deadline. No attempt begins after it; `attempt` itself ends by then. Returns the last error; none if
    /// there are no servers.
    pub async fn retry_until<T, E, F>(
        &self,
        deadline: Instant,
        backoff: Backoff,
        attempt: impl Fn(usize, Option<E>) -> F,
    ) -> Result<T, Option<E>>
    where
        F: Future<Output = Result<T, AttemptError<E>>>,
    {
        self.run(Some((deadline, backoff.delays())), attempt).await
    }

    /// `attempt` gets a server's index and the error of the attempt before.
    async fn run<T, E, F>(
        &self,
        mut retry: Option<(Instant, Delays)>,
        attempt: impl Fn(usize, Option<E>) -> F,
    ) -> Result<T, Option<E>>
    where
        F: Future<Output = Result<T, AttemptError<E>>>,
    {
        if self.servers.is_empty() {
            return Err(None);
        }
        let mut last = None;
        let mut failed = 0;
        loop {
            let index = self.current.load(Ordering::Relaxed);
            last = match attempt(index, last.take()).await {
                Ok(result) => return Ok(result),
                Err(AttemptError::Final(error)) => return Err(Some(error)),
                Err(AttemptError::Redirect(next, error)) => {
                    let next = next % self.servers.len();
                    self.current.store(next, Ordering::Relaxed);
                    Some(error)
                }
                Err(AttemptError::Retry(error)) => {
                    self.leave(index);
                    Some(error)
                }
            };
            failed += 1;
            let is_round_over = failed % self.servers.len() == 0;
            let has_time = match &mut retry {
                None => !is_round_over,
                Some((deadline, delays)) if is_round_over => {
                    delays.sleep_until_last(*deadline).await
                }
                Some((deadline, _)) => Instant::now() < *deadline,
            };
            if !has_time {
                return Err(last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    fn servers(count: usize) -> Failover {
        let server = |index| Address::parse(&format!("server-{index}"), 80).unwrap();
        Failover::new((0..count).map(server).collect())
    }

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(20));

    #[tokio::test(start_paused = true)]
    async fn failover_should_keep_the_server_that_answers() {
        let failover = servers(3);
        let tried = Mutex::new(vec![]);
        let deadline = Instant::now() + Duration::from_secs(1);
        for _ in 0..2 {
            let attempt = |index: usize, _| {
                tried.lock().unwrap().push(index);
                async move {
                    if index == 2 {
                        Ok(())
                    } else {
                        Err(AttemptError::Retry("down"))
                    }
                }
            };
            failover
                .retry_until(deadline, BACKOFF, attempt)
                .await
                .unwrap();
        }
        assert_eq!(*tried.lock().unwrap(), [0, 1, 2, 2]);
        assert_eq!(failover.current(), Some(&failover.servers()[2]));
    }

    #[tokio::test(start_paused = true)]
    async fn failover_should_stop_at_final_errors_deadlines_and_round_ends() {
        let failover = servers(2);
        let deadline = Instant::now() + Duration::from_millis(100);
        let count = Mutex::new(0);
        let down = |_, _| {
            *count.lock().unwrap() += 1;
            async { Err::<(), _>(AttemptError::Retry("down")) }
        };
        assert_eq!(failover.try_each(down).await, Err(Some("down")));
        assert_eq!(*count.lock().unwrap(), 2);
        let result = failover.retry_until(deadline, BACKOFF, down).await;
        assert_eq!(result, Err(Some("down")));
        assert!(*count.lock().unwrap() > 6 && Instant::now() < deadline);
        let refused = |_, _| async { Err::<(), _>(AttemptError::Final("refused")) };
        assert_eq!(failover.try_each(refused).await, Err(Some("refused")));
        assert_eq!(servers(0).try_each(refused).await, Err(None));
        // A redirect is followed at once.
        let redirected = |index, _| async move {
            if index == 1 {
                Ok(index)
            } else {
                Err(AttemptError::Redirect(1, "other"))
            }
        };
        assert_eq!(servers(3).try_each(redirected).await, Ok(1));
    }

    #[test]
    fn leave_should_move_on_once_for_many_failures() {
        let failover = servers(3);
        assert_eq!(failover.leave(0), Some(&failover.servers()[1]));
        assert_eq!(failover.leave(0), None);
        assert_eq!(failover.current(), Some(&failover.servers()[1]));
        assert_eq!(servers(1).leave(0), None);
    }
}
