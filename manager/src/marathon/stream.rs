//! Decodes the event stream from chunks of bytes.
//!
//! `sse-stream` implements the framing. This module adds an idle timeout, where the empty line that
//! Marathon sends every ten seconds counts as keep-alive, and a limit for the length of an event.

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
    events: SseByteStream<BoxStream<'static, Result<Bytes, StreamError>>>,
    /// Bytes received since the last event.
    pending: Arc<AtomicUsize>,
}

/// The error that ended the stream.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
struct StreamError(#[from] HttpError);

impl EventStream {
    pub(super) fn new(response: Streaming, idle_timeout: Duration, max_event_bytes: usize) -> Self {
        let bytes = unfold(Some(response), move |response| async move {
            let mut response = response?;
            match response.next(idle_timeout).await.transpose()? {
                Ok(bytes) => Some((Ok(bytes), Some(response))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Self::from_chunks(bytes, max_event_bytes)
    }

    fn from_chunks(
        bytes: impl Stream<Item = Result<Bytes, HttpError>> + Send + 'static,
        max_event_bytes: usize,
    ) -> Self {
        let pending = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&pending);
        let bytes = bytes.map(move |bytes| {
            let bytes = bytes?;
            // Relaxed: one task accesses the counter.
            let before = counter.fetch_add(bytes.len(), Ordering::Relaxed);
            if before + bytes.len() > max_event_bytes {
                return Err(HttpError::BodyTooLarge(max_event_bytes).into());
            }
            Ok(bytes)
        });
        Self {
            events: SseByteStream::new(bytes.boxed()),
            pending,
        }
    }

    /// The next event. Cancel-safe. Must not be called after an error.
    pub(super) async fn next(&mut self) -> Result<ParsedEvent, CallErrorKind> {
        loop {
            let event = match self.events.next().await {
                None => return Err(CallErrorKind::Ended),
                Some(Ok(event)) => event,
                Some(Err(SseError::Body(error))) => {
                    return Err(match error.downcast::<StreamError>() {
                        Ok(error) => CallErrorKind::Http(error.0),
                        Err(other) => CallErrorKind::Stream(other.to_string()),
                    });
                }
                Some(Err(error)) => return Err(CallErrorKind::Stream(error.to_string())),
            };
            self.pending.store(0, Ordering::Relaxed);
            // The standard says to ignore an event without data.
            if let Some(data) = event.data {
                return Ok(event::decode(event.event.as_deref(), &data));
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

    /// The events of a stream, and the error that ends it.
    fn decode_all(bytes: &[u8], size: usize) -> (Vec<ParsedEvent>, CallErrorKind) {
        let parts: Vec<_> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        let mut stream = EventStream::from_chunks(iter(parts.into_iter().map(Ok)), 1000);
        let mut events = Vec::new();
        loop {
            match block_on(stream.next()) {
                Ok(event) => events.push(event),
                Err(problem) => return (events, problem),
            }
        }
    }

    fn changed(id: &str) -> ParsedEvent {
        ParsedEvent::Changed(vec![Key::RunSpec(RunSpecId::parse(id).unwrap())])
    }

    /// In Jetty's format: CRLF, and an empty line every ten seconds.
    const STREAM: &str = "event: event_stream_attached\r\ndata: {\"remoteAddress\":\"::1\"}\r\n\r\n\
        \r\n\r\nevent: app_terminated_event\r\ndata: {\"appId\":\"/a\"}\r\n\r\n\r\n\
        event: app_terminated_event\r\ndata: {\"appId\":\r\ndata: \"/b\"}\r\n\r\n\
        : a comment\r\n\r\nevent: without_data\r\n\r\nevent: app_terminated_event\r\ndata: {";

    #[test]
    fn frames_decode_with_any_chunks_and_line_ends() {
        for end in ["\r\n", "\n", "\r"] {
            let bytes = STREAM.replace("\r\n", end);
            for size in 1..=bytes.len() {
                let (events, problem) = decode_all(bytes.as_bytes(), size);
                let expected = [ParsedEvent::Attached, changed("/a"), changed("/b")];
                assert_eq!(events, expected, "{end:?}, {size} bytes at a time");
                assert_eq!(problem, CallErrorKind::Ended);
            }
        }
    }

    #[test]
    fn invalid_utf8_ends_stream() {
        let (events, problem) = decode_all(b"data: {\"appId\":\"/a\"}\n\ndata: \xff\n\n", 7);
        assert_eq!(events, [changed("/a")]);
        assert!(matches!(problem, CallErrorKind::Stream(_)), "{problem:?}");
    }

    #[test]
    fn event_size_is_limited_but_stream_size_is_not() {
        let short = "data: {\"appId\":\"/a\"}\n\n".repeat(100);
        assert_eq!(decode_all(short.as_bytes(), 50).0.len(), 100);
        for long in [
            format!("data: {}\n\n", "x".repeat(1000)),
            format!("event: {}\n\n", "x".repeat(1000)),
            format!(": {}\n\n", "x".repeat(1000)),
            "data: x\n".repeat(200),
        ] {
            let (events, problem) = decode_all(long.as_bytes(), 50);
            assert_eq!(events, []);
            assert_eq!(problem, CallErrorKind::Http(HttpError::BodyTooLarge(1000)));
        }
    }

    proptest! {
        #[test]
        fn chunk_size_does_not_change_events(
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
            prop_assert_eq!(decode_all(&bytes, bytes.len().max(1)), decode_all(&bytes, size));
        }
    }
}
