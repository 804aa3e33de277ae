//! What other servers have answered.
//!
//! Invariants: entries and bytes are bounded; what was used least lately goes first. A record is kept no
//! longer than its TTL says, except that the last answer is given for a while if no server answers any more.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use lru::LruCache;

use super::message::{QueryFlags, Response};

/// The most entries.
const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();
/// The most bytes of the messages that the entries are from.
const MAX_BYTES: usize = 16 << 20;
/// How long an answer is kept at most, whatever its TTL.
const MAX_TTL: Duration = Duration::from_hours(1);
/// How long it is kept at most that there is nothing.
const MAX_NEGATIVE_TTL: Duration = Duration::from_mins(5);
/// How long a failure is kept: clients that ask again at once do not make more work.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// How long after its end an answer is given if no server answers.
const MAX_STALE: Duration = Duration::from_mins(10);
/// How long such an answer is given before the servers are asked again, and its TTL.
const STALE_TTL: Duration = Duration::from_secs(5);

/// What is asked of other servers. Its name is in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
    pub(crate) flags: QueryFlags,
}

/// What another server has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    /// The length of the message.
    bytes: usize,
}

impl Answer {
    /// That of a message with this length.
    pub(crate) fn new(message: Message, bytes: usize) -> Self {
        Self {
            code: message.metadata.response_code,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
            bytes,
        }
    }

    /// That no server has answered.
    pub(crate) fn failure() -> Self {
        Self {
            code: ResponseCode::ServFail,
            answers: vec![],
            authorities: vec![],
            additionals: vec![],
            bytes: 0,
        }
    }

    pub(crate) fn is_failure(&self) -> bool {
        self.code == ResponseCode::ServFail
    }

    /// The response for a client that asked for `name`, after a time, with TTLs of `at_most`.
    fn response(&self, name: &Name, age: Duration, at_most: u32) -> Response {
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let records = |records: &[Record]| {
            let aged = records.iter().map(|record| {
                let mut record = record.clone();
                record.ttl = record.ttl.saturating_sub(age).min(at_most);
                if record.name == *name {
                    // In the case that the client uses.
                    record.name = name.clone();
                }
                record
            });
            aged.collect()
        };
        Response {
            code: self.code,
            is_authoritative: false,
            answers: records(&self.answers),
            authorities: records(&self.authorities),
            additionals: records(&self.additionals),
        }
    }

    /// The response at once.
    pub(crate) fn fresh_response(&self, name: &Name) -> Response {
        self.response(name, Duration::ZERO, u32::MAX)
    }

    /// How long it may be kept; zero if not at all.
    fn ttl(&self) -> Duration {
        if self.is_failure() {
            return FAILURE_TTL;
        }
        let answers = self.answers.iter().map(|record| record.ttl).min();
        let is_positive = self.code == ResponseCode::NoError && answers.is_some();
        if is_positive {
            let seconds = u64::from(answers.unwrap_or_default());
            return Duration::from_secs(seconds).min(MAX_TTL);
        }
        let negative = self
            .authorities
            .iter()
            .find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
        // An alias that leads to nothing.
        let seconds = negative
            .unwrap_or_default()
            .min(answers.unwrap_or(u32::MAX));
        Duration::from_secs(u64::from(seconds)).min(MAX_NEGATIVE_TTL)
    }
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Answer>,
    stored: Instant,
    /// Until when it is given without asking a server.
    fresh_until: Instant,
    /// Until when it is given if no server answers.
    stale_until: Instant,
    /// Whether it is given after its end.
    is_stale: bool,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: LruCache<Question, Entry>,
    bytes: usize,
    max_bytes: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(MAX_ENTRIES, MAX_BYTES)
    }
}

impl Cache {
    fn new(max_entries: NonZeroUsize, max_bytes: usize) -> Self {
        Self {
            entries: LruCache::sparse(max_entries),
            bytes: 0,
            max_bytes,
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The response to a question that was asked for `name`, if there is one at this time.
    pub(crate) fn get(
        &mut self,
        question: &Question,
        name: &Name,
        now: Instant,
    ) -> Option<Response> {
        let entry = self.entries.get(question)?;
        if now >= entry.fresh_until {
            return None;
        }
        if entry.is_stale {
            let ttl = u32::try_from(STALE_TTL.as_secs()).unwrap_or(u32::MAX);
            return Some(entry.answer.response(name, Duration::ZERO, ttl));
        }
        let age = now.saturating_duration_since(entry.stored);
        Some(entry.answer.response(name, age, u32::MAX))
    }

    /// Keeps an answer. For a failure, an earlier answer stays if there is one. Returns what is the
    /// answer now.
    pub(crate) fn put(
        &mut self,
        question: Question,
        answer: Arc<Answer>,
        now: Instant,
    ) -> Arc<Answer> {
        if answer.is_failure()
            && let Some(entry) = self.entries.get_mut(&question)
            && !entry.answer.is_failure()
            && now < entry.stale_until
        {
            entry.is_stale = true;
            entry.fresh_until = now + STALE_TTL;
            return Arc::clone(&entry.answer);
        }
        let ttl = answer.ttl();
        if ttl.is_zero() {
            if let Some(entry) = self.entries.pop(&question) {
                self.bytes -= size(&question, &entry.answer);
            }
            return answer;
        }
        self.bytes += size(&question, &answer);
        let stale = if answer.is_failure() {
            Duration::ZERO
        } else {
            MAX_STALE
        };
        let entry = Entry {
            answer: Arc::clone(&answer),
            stored: now,
            fresh_until: now + ttl,
            stale_until: now + ttl + stale,
            is_stale: false,
        };
        // What it replaces, or what had to go.
        if let Some((question, entry)) = self.entries.push(question, entry) {
            self.bytes -= size(&question, &entry.answer);
        }
        while self.bytes > self.max_bytes
            && let Some((question, entry)) = self.entries.pop_lru()
        {
            self.bytes -= size(&question, &entry.answer);
        }
        answer
    }
}

/// What an entry takes, about: parsed records take several times the bytes of their message.
fn size(question: &Question, answer: &Answer) -> usize {
    200 + question.name.len() + 4 * answer.bytes
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn question(text: &str) -> Question {
        Question {
            name: name(text),
            kind: RecordType::A,
            flags: QueryFlags::default(),
        }
    }

    fn positive(owner: &str, ttl: u32) -> Arc<Answer> {
        let mut message = Message::response(1, OpCode::Query);
        message.add_answer(Record::from_rdata(
            name(owner),
            ttl,
            RData::A(A::new(192, 0, 2, 1)),
        ));
        Arc::new(Answer::new(message, 100))
    }

    fn negative(minimum: Option<u32>) -> Arc<Answer> {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = ResponseCode::NXDomain;
        if let Some(minimum) = minimum {
            let soa = SOA::new(name("ns."), name("a."), 1, 1, 1, 1, minimum);
            message.add_authority(Record::from_rdata(name("example."), 600, RData::SOA(soa)));
        }
        Arc::new(Answer::new(message, 100))
    }

    /// The TTLs of the answers at a time, or none.
    fn ttls(cache: &mut Cache, text: &str, now: Instant) -> Option<Vec<u32>> {
        let response = cache.get(&question(text), &name(text), now)?;
        Some(response.answers.iter().map(|record| record.ttl).collect())
    }

    #[test]
    fn answers_age_and_end_with_their_ttl() {
        let mut cache = Cache::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        cache.put(question("a.example."), positive("a.example.", 30), start);
        cache.put(question("b.example."), positive("b.example.", 0), start);
        assert_eq!(ttls(&mut cache, "a.example.", at(0)), Some(vec![30]));
        assert_eq!(ttls(&mut cache, "a.example.", at(12)), Some(vec![18]));
        assert_eq!(ttls(&mut cache, "a.example.", at(30)), None);
        assert_eq!(ttls(&mut cache, "b.example.", at(0)), None);
        let long = positive("c.example.", 1_000_000);
        cache.put(question("c.example."), long, start);
        assert!(ttls(&mut cache, "c.example.", at(3599)).is_some());
        assert_eq!(ttls(&mut cache, "c.example.", at(3600)), None);
    }

    #[test]
    fn names_have_the_case_that_the_client_uses() {
        let mut cache = Cache::default();
        let now = Instant::now();
        cache.put(question("a.example."), positive("a.example.", 30), now);
        let asked = name("A.eXample.");
        let lower = Question {
            name: asked.to_lowercase(),
            ..question("a.example.")
        };
        let response = cache.get(&lower, &asked, now).unwrap();
        assert!(response.answers[0].name.eq_case(&asked));
    }

    #[test]
    fn negative_answers_are_kept_as_their_zone_says() {
        let mut cache = Cache::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        cache.put(question("a."), negative(Some(20)), now);
        assert_eq!(ttls(&mut cache, "a.", at(19)), Some(vec![]));
        assert_eq!(ttls(&mut cache, "a.", at(20)), None);
        cache.put(question("b."), negative(None), now);
        assert_eq!(ttls(&mut cache, "b.", at(0)), None);
    }

    #[test]
    fn last_answer_is_given_while_no_server_answers() {
        let mut cache = Cache::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let failure = || Arc::new(Answer::failure());
        cache.put(question("a."), positive("a.", 30), start);
        assert!(!cache.put(question("a."), failure(), at(31)).is_failure());
        assert_eq!(ttls(&mut cache, "a.", at(35)), Some(vec![5]));
        assert_eq!(ttls(&mut cache, "a.", at(36)), None);
        assert!(!cache.put(question("a."), failure(), at(620)).is_failure());
        assert!(cache.put(question("a."), failure(), at(631)).is_failure());
        // A failure itself is kept for a moment.
        assert_eq!(ttls(&mut cache, "a.", at(631)), Some(vec![]));
        assert_eq!(ttls(&mut cache, "a.", at(632)), None);
        cache.put(question("a."), positive("a.", 30), at(633));
        assert_eq!(ttls(&mut cache, "a.", at(634)), Some(vec![29]));
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let now = Instant::now();
        let mut cache = Cache::new(NonZeroUsize::new(3).unwrap(), 10_000);
        for text in ["a.", "b.", "c."] {
            cache.put(question(text), positive(text, 30), now);
        }
        assert!(ttls(&mut cache, "a.", now).is_some());
        cache.put(question("d."), positive("d.", 30), now);
        assert_eq!(cache.len(), 3);
        assert_eq!(ttls(&mut cache, "b.", now), None);
        assert!(ttls(&mut cache, "a.", now).is_some());
        let large = Arc::new(Answer {
            bytes: 2400,
            ..Answer::clone(&positive("e.", 30))
        });
        cache.put(question("e."), large, now);
        assert_eq!(cache.len(), 1);
        // The same again takes no more.
        let before = cache.bytes;
        for _ in 0..3 {
            cache.put(question("e."), positive("e.", 30), now);
        }
        assert!(cache.bytes < before);
        cache.put(question("e."), positive("e.", 0), now);
        assert_eq!((cache.len(), cache.bytes), (0, 0));
    }
}
