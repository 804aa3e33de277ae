//! The framing of the Mesos v1 event streams: a record's length in decimal, a newline, the record.
//!
//! Invariant: a record is given out whole or not at all, however the bytes were cut.

use std::fmt;

/// The longest record that is believed: the whole state of a large cluster is one record.
const LONGEST: usize = 1 << 30;

/// A record from this length on is handed on without a copy, and what it took is given back: the
/// first record of a stream is far longer than all that follow.
const LONG: usize = 1 << 16;

/// The most that comes at a time: what follows a long record in the same piece.
const MORE: usize = 1 << 19;

/// The longest text of a length.
const LONGEST_LENGTH: usize = 20;

/// A stream that is not in this framing. Nothing after it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a RecordIO stream: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Takes bytes as they arrive and gives out records as they are complete.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Where the first byte not yet given out is.
    start: usize,
    /// How long a record may be from now on, where that is less.
    longest: Option<usize>,
}

impl Decoder {
    /// From the next record on none may be longer than this.
    pub fn limit(&mut self, longest: usize) {
        self.longest = Some(longest);
    }

    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next record, if all of it has arrived.
    pub fn next_record(&mut self) -> Result<Option<Vec<u8>>, Malformed> {
        let rest = &self.bytes[self.start..];
        // The record itself is not searched: it may be long, and come in many pieces.
        let head = &rest[..rest.len().min(LONGEST_LENGTH + 1)];
        let Some(newline) = head.iter().position(|byte| *byte == b'\n') else {
            return if rest.len() > LONGEST_LENGTH {
                Err(Malformed(format!(
                    "a length of more than {LONGEST_LENGTH} digits"
                )))
            } else {
                Ok(None)
            };
        };
        let digits = String::from_utf8_lossy(&rest[..newline]);
        let length: usize = digits
            .trim()
            .parse()
            .map_err(|_| Malformed(format!("{digits:?} is not a length")))?;
        if length > self.longest.unwrap_or(LONGEST).min(LONGEST) {
            return Err(Malformed(format!("a record of {length} bytes")));
        }
        let (begin, end) = (newline + 1, newline + 1 + length);
        if rest.len() < end {
            if length >= LONG {
                // Once, and not twice what is needed. What never comes takes no memory.
                self.bytes.drain(..self.start);
                self.start = 0;
                self.bytes.reserve_exact(end + MORE - self.bytes.len());
            }
            return Ok(None);
        }
        if length >= LONG {
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

    use super::*;

    fn decode(parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Malformed> {
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
    fn records_survive_every_cut() {
        let stream = b"5\nhello0\n3\na\nb";
        for cut in 0..=stream.len() {
            let records = decode(&[&stream[..cut], &stream[cut..]]).expect("well formed");
            assert_eq!(records, [&b"hello"[..], b"", b"a\nb"], "cut at {cut}");
        }
    }

    #[test]
    fn a_long_record_is_one_like_others_and_leaves_nothing_behind() {
        let long = vec![b'x'; 3 * LONG];
        let short = b"5\nhello";
        let head = format!("{}\n", long.len());
        let stream = [&short[..], head.as_bytes(), &long, short, short].concat();
        for size in [1000, LONG, stream.len()] {
            let mut decoder = Decoder::default();
            let mut records = Vec::new();
            for part in stream.chunks(size) {
                decoder.push(part);
                while let Some(record) = decoder.next_record().expect("well formed") {
                    records.push(record);
                }
            }
            assert_eq!(records, [&b"hello"[..], &long, b"hello", b"hello"]);
            assert!(decoder.bytes.capacity() < LONG, "{size} bytes at a time");
        }
    }

    #[test]
    fn other_streams_are_refused() {
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
    fn a_record_has_a_longest_length() {
        let mut decoder = Decoder::default();
        decoder.push(b"6\nsnapsh5\nevent6\nsnapsh");
        assert_eq!(decoder.next_record().unwrap().unwrap(), b"snapsh");
        decoder.limit(5);
        assert_eq!(decoder.next_record().unwrap().unwrap(), b"event");
        // Before any of it is kept.
        decoder.next_record().unwrap_err();
    }

    proptest! {
        #[test]
        fn what_was_framed_comes_out(
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
        fn the_cuts_of_any_bytes_change_nothing(
            stream in proptest::collection::vec(prop_oneof![Just(b'\n'), b'0'..b'5', any::<u8>()], 0..60),
            size in 1_usize..9,
        ) {
            let parts: Vec<&[u8]> = stream.chunks(size).collect();
            let (whole, cut) = (decode(&[&stream]), decode(&parts));
            prop_assert_eq!(whole.is_err(), cut.is_err());
            if let (Ok(whole), Ok(cut)) = (whole, cut) {
                prop_assert_eq!(whole, cut);
            }
        }
    }
}
