//! The event stream: bytes, cut anywhere, become events.
//!
//! `sse-stream` knows the framing. Here is what it leaves open: a deadline for every silence, where
//! the empty line that Marathon sends every ten seconds counts as a sign of life, and a limit for
//! an event's length.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt as _, unfold};
use hyper::body::Bytes;
use sse_stream::{Error as SseError, SseByteStream};

use super::event::{self, ParsedEvent};
use contrail_mesos_api::http::{CallErrorKind, HttpError, Streaming};

/// An open event stream.
pub(super) struct EventStream {
    events: SseByteStream<BoxStream<'static, Result<Bytes, Broken>>>,
    /// Bytes that came since the last event.
    pending: Arc<AtomicUsize>,
}

/// Why no more bytes come.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
struct Broken(#[from] HttpError);

impl EventStream {
    pub(super) fn new(answer: Streaming, quiet: Duration, longest: usize) -> Self {
        let bytes = unfold(Some(answer), move |answer| async move {
            let mut answer = answer?;
            match answer.next(quiet).await.transpose()? {
                Ok(bytes) => Some((Ok(bytes), Some(answer))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Self::over(bytes, longest)
    }

    fn over(
        bytes: impl Stream<Item = Result<Bytes, HttpError>> + Send + 'static,
        longest: usize,
    ) -> Self {
        let pending = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&pending);
        let bytes = bytes.map(move |bytes| {
            let bytes = bytes?;
            // Both ends of this counter are in one task.
            let before = counter.fetch_add(bytes.len(), Ordering::Relaxed);
            if before + bytes.len() > longest {
                return Err(HttpError::BodyTooLarge(longest).into());
            }
            Ok(bytes)
        });
        Self {
            events: SseByteStream::new(bytes.boxed()),
            pending,
        }
    }

    /// The next event. Cancel-safe. After an error there is no other.
    pub(super) async fn next(&mut self) -> Result<ParsedEvent, CallErrorKind> {
        loop {
            let event = match self.events.next().await {
                None => return Err(CallErrorKind::Ended),
                Some(Ok(event)) => event,
                Some(Err(SseError::Body(error))) => {
                    return Err(match error.downcast::<Broken>() {
                        Ok(broken) => CallErrorKind::Http(broken.0),
                        Err(other) => CallErrorKind::Stream(other.to_string()),
                    });
                }
                Some(Err(error)) => return Err(CallErrorKind::Stream(error.to_string())),
            };
            self.pending.store(0, Ordering::Relaxed);
            // Without data it is none, by the standard of such streams.
            if let Some(data) = event.data {
                return Ok(event::read(event.event.as_deref(), &data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::stream::iter;
    use proptest::prelude::*;

    use super::*;
    use crate::marathon::event::Key;
    use crate::marathon::id::RunSpecId;

    /// What a stream means, and how it ends.
    fn meanings(bytes: &[u8], size: usize) -> (Vec<ParsedEvent>, CallErrorKind) {
        let parts: Vec<_> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        let mut stream = EventStream::over(iter(parts.into_iter().map(Ok)), 1000);
        let mut meanings = Vec::new();
        loop {
            match block_on(stream.next()) {
                Ok(meaning) => meanings.push(meaning),
                Err(problem) => return (meanings, problem),
            }
        }
    }

    fn touched(id: &str) -> ParsedEvent {
        ParsedEvent::Changed(vec![Key::RunSpec(RunSpecId::parse(id).unwrap())])
    }

    /// As Jetty sends it: CRLF, and an empty line every ten seconds.
    const STREAM: &str = "event: event_stream_attached\r\ndata: {\"remoteAddress\":\"::1\"}\r\n\r\n\
        \r\n\r\nevent: app_terminated_event\r\ndata: {\"appId\":\"/a\"}\r\n\r\n\r\n\
        event: app_terminated_event\r\ndata: {\"appId\":\r\ndata: \"/b\"}\r\n\r\n\
        : a comment\r\n\r\nevent: without_data\r\n\r\nevent: app_terminated_event\r\ndata: {";

    #[test]
    fn frames_survive_every_cut_and_every_line_end() {
        for end in ["\r\n", "\n", "\r"] {
            let bytes = STREAM.replace("\r\n", end);
            for size in 1..=bytes.len() {
                let (meanings, problem) = meanings(bytes.as_bytes(), size);
                let expected = [ParsedEvent::Attached, touched("/a"), touched("/b")];
                assert_eq!(meanings, expected, "{end:?}, {size} bytes at a time");
                assert_eq!(problem, CallErrorKind::Ended);
            }
        }
    }

    #[test]
    fn what_is_not_text_ends_the_stream() {
        let (meanings, problem) = meanings(b"data: {\"appId\":\"/a\"}\n\ndata: \xff\n\n", 7);
        assert_eq!(meanings, [touched("/a")]);
        assert!(matches!(problem, CallErrorKind::Stream(_)), "{problem:?}");
    }

    #[test]
    fn an_event_has_a_longest_length_but_a_stream_has_none() {
        let short = "data: {\"appId\":\"/a\"}\n\n".repeat(100);
        assert_eq!(meanings(short.as_bytes(), 50).0.len(), 100);
        for long in [
            format!("data: {}\n\n", "x".repeat(1000)),
            format!("event: {}\n\n", "x".repeat(1000)),
            format!(": {}\n\n", "x".repeat(1000)),
            "data: x\n".repeat(200),
        ] {
            let (meanings, problem) = meanings(long.as_bytes(), 50);
            assert_eq!(meanings, []);
            assert_eq!(problem, CallErrorKind::Http(HttpError::BodyTooLarge(1000)));
        }
    }

    proptest! {
        #[test]
        fn the_cuts_of_any_bytes_change_nothing(
            bytes in proptest::collection::vec(
                prop_oneof![
                    Just(b"\r\n".to_vec()), Just(b"\n".to_vec()), Just(b"\r".to_vec()),
                    Just(b"data:".to_vec()), Just(b" {\"appId\":\"/a\"}".to_vec()),
                    Just(b"event: x".to_vec()), proptest::collection::vec(any::<u8>(), 0..4),
                ],
                0..20,
            ),
            size in 1_usize..9,
        ) {
            let bytes = bytes.concat();
            prop_assert_eq!(meanings(&bytes, bytes.len().max(1)), meanings(&bytes, size));
        }
    }
}
