//! The framing of the Mesos v1 event streams: a record's length in decimal, a newline, the record.
//!
//! Invariant: a record is given out whole or not at all, however the bytes were cut.

use std::fmt;

/// The longest record that is believed; Mesos itself sends nothing near it.
const LONGEST: usize = 256 << 20;

/// A stream that is not in this framing. Nothing after it can be read.
#[derive(Debug)]
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
}

impl Decoder {
    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next record, if all of it has arrived.
    pub fn next_record(&mut self) -> Result<Option<Vec<u8>>, Malformed> {
        let rest = &self.bytes[self.start..];
        let Some(newline) = rest.iter().position(|byte| *byte == b'\n') else {
            return if rest.len() > 20 {
                Err(Malformed("a length of more than 20 digits".to_owned()))
            } else {
                Ok(None)
            };
        };
        let digits = String::from_utf8_lossy(&rest[..newline]);
        let length: usize = digits
            .trim()
            .parse()
            .map_err(|_| Malformed(format!("{digits:?} is not a length")))?;
        if length > LONGEST {
            return Err(Malformed(format!("a record of {length} bytes")));
        }
        let (begin, end) = (newline + 1, newline + 1 + length);
        if rest.len() < end {
            return Ok(None);
        }
        let record = rest[begin..end].to_vec();
        self.start += end;
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_every_cut() {
        let stream = b"5\nhello0\n3\na\nb";
        for cut in 0..=stream.len() {
            let mut decoder = Decoder::default();
            let mut records = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                decoder.push(part);
                while let Some(record) = decoder.next_record().expect("well formed") {
                    records.push(record);
                }
            }
            assert_eq!(records, [&b"hello"[..], b"", b"a\nb"], "cut at {cut}");
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
            let mut decoder = Decoder::default();
            decoder.push(stream);
            assert!(
                decoder.next_record().is_err(),
                "{}",
                String::from_utf8_lossy(stream)
            );
        }
    }
}
