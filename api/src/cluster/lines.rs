//! Splits a stream into lines of a bounded length.

/// Takes bytes as they arrive and returns lines as they become complete.
#[derive(Debug)]
pub(super) struct LineDecoder {
    max_bytes: usize,
    bytes: Vec<u8>,
    /// The offset of the first byte that was not returned yet.
    start: usize,
    /// The offset up to which there is no end of a line.
    searched: usize,
}

/// A line is longer than the limit. The rest of the stream cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

impl LineDecoder {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            bytes: Vec::new(),
            start: 0,
            searched: 0,
        }
    }

    /// Adds bytes from the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched = self.searched.saturating_sub(self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line, without its end, if it is complete.
    pub(super) fn next_line(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        let rest = self.bytes.get(self.searched..).unwrap_or_default();
        let end = match rest.iter().position(|byte| *byte == b'\n') {
            Some(length) => self.searched + length,
            None => self.bytes.len(),
        };
        if end - self.start > self.max_bytes {
            return Err(LineTooLong);
        }
        self.searched = end;
        if end == self.bytes.len() {
            return Ok(None);
        }
        let line = self.start..end;
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(&self.bytes[line]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decoder_returns_what_was_written(
            lines in proptest::collection::vec("[ab]{0,9}", 0..8),
            size in 1_usize..9,
        ) {
            let stream: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            let mut decoder = LineDecoder::new(9);
            let mut decoded = vec![];
            for part in stream.as_bytes().chunks(size) {
                decoder.push(part);
                while let Some(line) = decoder.next_line().unwrap() {
                    decoded.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(decoded, lines);
        }
    }

    #[test]
    fn long_lines_are_refused_before_they_end() {
        let mut decoder = LineDecoder::new(3);
        decoder.push(b"abc\nab");
        assert_eq!(decoder.next_line(), Ok(Some(&b"abc"[..])));
        assert_eq!(decoder.next_line(), Ok(None));
        decoder.push(b"cd");
        assert_eq!(decoder.next_line(), Err(LineTooLong));
    }
}
