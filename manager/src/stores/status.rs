//! The state of each source as operators and metrics see it.

use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::Stores;
use super::source::Source;

/// The state of a source.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct SourceStatus {
    /// `contrail`, `mesos` or `marathon`.
    pub source: &'static str,
    /// `fresh`, `untrusted`, `lost` or `never-listed`.
    pub state: &'static str,
    /// Whether it is connected and has listed everything since.
    pub fresh: bool,
    /// How long it has been trusted, in seconds.
    pub trusted_seconds: Option<u64>,
    /// The age of its last full list, in seconds.
    pub age_seconds: Option<u64>,
    /// Why it is not trusted.
    pub problem: Option<String>,
}

impl SourceStatus {
    pub(crate) fn new(name: &'static str, source: &Source) -> Self {
        let now = Instant::now();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        let trusted = source.trusted_since();
        Self {
            source: name,
            state: source.state(),
            fresh: source.is_fresh(),
            trusted_seconds: trusted.map(seconds),
            age_seconds: source.last_listed().map(seconds),
            problem: trusted.is_none().then(|| source.problem(now)),
        }
    }
}

impl Stores {
    /// The state of each source that is followed.
    pub(crate) fn source_status(&self, follows_marathon: bool) -> Vec<SourceStatus> {
        let mut sources = vec![
            self.contrail
                .read(|view| SourceStatus::new("contrail", &view.source)),
            self.mesos
                .read(|view| SourceStatus::new("mesos", &view.source)),
        ];
        if follows_marathon {
            sources.push(
                self.marathon
                    .read(|view| SourceStatus::new("marathon", &view.source)),
            );
        }
        sources
    }
}
