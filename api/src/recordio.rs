//! `RecordIO`, the framing of the Mesos v1 event streams: decimal length, newline, record.
//!
//! Invariant: a record is returned whole or not at all, however its bytes were split.

use std::fmt;

/// The longest record that is accepted. The whole state of a large cluster is one record.
const MAX_RECORD_BYTES: usize = 1 << 30;

/// Records from this length on are returned without a copy, and their memory is freed: the first
/// record of a stream is far longer than all that follow.
const ZERO_COPY_BYTES: usize = 1 << 16;

/// Room for what follows a long record in the same chunk.
const MAX_CHUNK_BYTES: usize = 1 << 19;

/// The most digits of a record's length.
const MAX_LENGTH_DIGITS: usize = 20;

/// Invalid framing. The rest of the stream cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordIoError(String);

impl fmt::Display for RecordIoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a RecordIO stream: {}", self.0)
    }
}

impl std::error::Error for RecordIoError {}

/// Takes bytes as they arrive and returns records as they become complete.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// The offset of the first byte that was not returned yet.
    start: usize,
    /// A smaller limit for the records to come, in bytes.
    max_record_bytes: Option<usize>,
}

impl Decoder {
    /// Limits the length of the records to come.
    pub fn limit(&mut self, max_record_bytes: usize) {
        self.max_record_bytes = Some(max_record_bytes);
    }

    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next record, if it is complete.
    pub fn next_record(&mut self) -> Result<Option<Vec<u8>>, RecordIoError> {
        let rest = &self.bytes[self.start..];
        // The record itself is not searched: it may be long and arrive in many chunks.
        let head = &rest[..rest.len().min(MAX_LENGTH_DIGITS + 1)];
        let Some(newline) = head.iter().position(|byte| *byte == b'\n') else {
            return if rest.len() > MAX_LENGTH_DIGITS {
                Err(RecordIoError(format!(
                    "a length of more than {MAX_LENGTH_DIGITS} digits"
                )))
            } else {
                Ok(None)
            };
        };
        let digits = String::from_utf8_lossy(&rest[..newline]);
        let length: usize = digits
            .trim()
            .parse()
            .map_err(|_| RecordIoError(format!("{digits:?} is not a length")))?;
        if length
            > self
                .max_record_bytes
                .unwrap_or(MAX_RECORD_BYTES)
                .min(MAX_RECORD_BYTES)
        {
            return Err(RecordIoError(format!(
                "a record of {length} bytes is too long"
            )));
        }
        let (begin, end) = (newline + 1, newline + 1 + length);
        if rest.len() < end {
            if length >= ZERO_COPY_BYTES {
                // Allocates once, and exactly. Pages that are never written take no memory.
                self.bytes.drain(..self.start);
                self.start = 0;
                self.bytes
                    .reserve_exact(end + MAX_CHUNK_BYTES - self.bytes.len());
            }
            return Ok(None);
        }
        if length >= ZERO_COPY_BYTES {
            let rest = self.bytes.split_off(self.start + end);
            let mut record = std::mem::replace(&mut self.bytes, rest);
            record.drain(..self.start + begin);
            self.start = 0;
            return Ok(Some(record));
        }
        let record = rest[begin..end].to_vec();
        self.start += end;
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::parser_testing::for_damaged_input;

    use super::*;

    fn decode(parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, RecordIoError> {
        let mut decoder = Decoder::default();
        let mut records = Vec::new();
        for part in parts {
            decoder.push(part);
            while let Some(record) = decoder.next_record()? {
                records.push(record);
            }
        }
        Ok(records)
    }

    #[test]
    fn decoder_should_return_whole_records_at_every_split() {
        let stream = b"5\nhello0\n3\na\nb";
        for split in 0..=stream.len() {
            let records = decode(&[&stream[..split], &stream[split..]]).expect("well formed");
            assert_eq!(records, [&b"hello"[..], b"", b"a\nb"], "split at {split}");
        }
    }

    #[test]
    fn decoder_should_free_the_memory_of_long_records() {
        let long = vec![b'x'; 3 * ZERO_COPY_BYTES];
        let short = b"5\nhello";
        let head = format!("{}\n", long.len());
        let stream = [&short[..], head.as_bytes(), &long, short, short].concat();
        for size in [1000, ZERO_COPY_BYTES, stream.len()] {
            let mut decoder = Decoder::default();
            let mut records = Vec::new();
            for part in stream.chunks(size) {
                decoder.push(part);
                while let Some(record) = decoder.next_record().expect("well formed") {
                    records.push(record);
                }
            }
            assert_eq!(records, [&b"hello"[..], &long, b"hello", b"hello"]);
            assert!(
                decoder.bytes.capacity() < ZERO_COPY_BYTES,
                "{size} bytes at a time"
            );
        }
    }

    #[test]
    fn decoder_should_refuse_other_streams() {
        for stream in [
            &b"x\nhello"[..],
            b"-1\n",
            b"999999999999999\n",
            b"HTTP/1.1 200 OK and more",
        ] {
            assert!(
                decode(&[stream]).is_err(),
                "{}",
                String::from_utf8_lossy(stream)
            );
        }
    }

    #[test]
    fn decoder_should_refuse_records_above_the_limit() {
        let mut decoder = Decoder::default();
        decoder.push(b"6\nsnapsh5\nevent6\nsnapsh");
        assert_eq!(decoder.next_record().unwrap().unwrap(), b"snapsh");
        decoder.limit(5);
        assert_eq!(decoder.next_record().unwrap().unwrap(), b"event");
        // The length is refused before the record arrives.
        decoder.next_record().unwrap_err();
    }

    #[test]
    fn damaged_input_never_panics() {
        for_damaged_input(b"6\nsnapsh5\nevent0\n3\nend", |input| {
            // An error is as good as a record.
            let _ = decode(&[input]);
        });
    }

    proptest! {
        #[test]
        fn decoder_should_return_what_was_framed(
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            size in 1_usize..9,
        ) {
            let stream: Vec<u8> = records
                .iter()
                .flat_map(|record| [format!("{}\n", record.len()).into_bytes(), record.clone()].concat())
                .collect();
            let parts: Vec<&[u8]> = stream.chunks(size).collect();
            prop_assert_eq!(decode(&parts), Ok(records));
        }

        #[test]
        fn decoder_result_should_not_depend_on_splits(
            stream in proptest::collection::vec(prop_oneof![Just(b'\n'), b'0'..b'5', any::<u8>()], 0..60),
            size in 1_usize..9,
        ) {
            let parts: Vec<&[u8]> = stream.chunks(size).collect();
            let (whole, split) = (decode(&[&stream]), decode(&parts));
            prop_assert_eq!(whole.is_err(), split.is_err());
            if let (Ok(whole), Ok(split)) = (whole, split) {
                prop_assert_eq!(whole, split);
            }
        }
    }
}
