//! How the simulated server behaves, and how it misbehaves.

use std::time::Duration;

use super::auth::Keystone;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may ask.
    pub auth: Auth,
    /// How long every answer takes.
    pub delay: Duration,
    /// Header and body of an answer are written one after the other under Nagle's algorithm, as
    /// the real server does: on a connection that is used again, a client that acknowledges late
    /// waits 40 ms for the body.
    pub split_writes: bool,
    /// What goes wrong; the first that fits a request is its fate.
    pub faults: Vec<Fault>,
    /// How many requests the log keeps.
    pub log_limit: usize,
    /// How many changes a slow follower may be behind.
    pub backlog: usize,
}

/// Who may ask.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Everybody.
    #[default]
    None,
    /// Those with a token, which the server gives out itself at `/v3/auth/tokens` and
    /// `/v2.0/tokens`.
    Keystone(Keystone),
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Only with this method.
    pub method: Option<String>,
    /// Only where the path begins so.
    pub path: Option<String>,
    /// Not with the first so many.
    pub skip: u64,
    /// Only with so many.
    pub times: Option<u64>,
    /// Whether the request is carried out although the client does not hear of it.
    pub performed: bool,
    /// What the client sees.
    pub effect: Effect,
}

/// What a client sees of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The right answer, so much later.
    Delay(Duration),
    /// Another status and text.
    Status(u16, String),
    /// 200, JSON by name, and this.
    Nonsense(String),
    /// The right answer, with a part of its list only.
    List(Keep),
    /// The connection ends without an answer.
    Cut,
    /// The connection ends within the answer.
    CutInBody,
    /// No answer, and the connection stays.
    Hang,
}

impl Effect {
    /// Whether it is the right answer that is spoilt, so that there has to be one.
    pub(crate) fn needs_the_answer(&self) -> bool {
        matches!(self, Self::Delay(_) | Self::List(_))
    }
}

/// How much of a list is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    None,
    /// The first half, rounded down.
    Half,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auth: Auth::None,
            delay: Duration::ZERO,
            split_writes: false,
            faults: Vec::new(),
            log_limit: 100_000,
            backlog: 65_536,
        }
    }
}

impl Fault {
    /// A fault of every request, which is not carried out.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            method: None,
            path: None,
            skip: 0,
            times: None,
            performed: effect.needs_the_answer(),
            effect,
        }
    }

    /// Only of requests with this method and a path that begins so.
    #[must_use]
    pub fn on(mut self, method: &str, path: &str) -> Self {
        self.method = Some(method.to_owned());
        self.path = Some(path.to_owned());
        self
    }

    /// Of only so many requests, after so many that go well.
    #[must_use]
    pub fn times(mut self, skip: u64, times: u64) -> Self {
        self.skip = skip;
        self.times = Some(times);
        self
    }

    /// The request is carried out all the same.
    #[must_use]
    pub fn performed(mut self) -> Self {
        self.performed = true;
        self
    }

    /// Whether it is this request's fate; counts those that it could have been.
    pub(crate) fn strikes(&mut self, method: &str, path: &str) -> bool {
        let fits = self.method.as_ref().is_none_or(|only| only == method)
            && self
                .path
                .as_ref()
                .is_none_or(|start| path.starts_with(start.as_str()))
            && self.times != Some(0);
        if !fits {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}
