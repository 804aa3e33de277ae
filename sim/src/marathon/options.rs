//! Options of Marathon, as on its command line.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::launch::image::Images;
use super::model::Defaults;
use super::version::Version;

/// Options of Marathon, as on its command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Mesos master, `host:port`.
    pub master: String,
    /// Where the API of the first server listens, which is the first leader; port 0 takes any.
    pub listen: SocketAddr,
    /// Where the APIs of the other servers listen.
    pub standbys: Vec<SocketAddr>,
    /// The release to simulate.
    pub version: Version,
    /// The framework's name.
    pub framework_name: String,
    /// How long Mesos keeps the tasks while the framework is disconnected.
    pub failover_timeout: Duration,
    /// When to reconcile all tasks after a (re)connection.
    pub reconciliation_initial_delay: Duration,
    /// Defaults of definitions, including the role.
    pub defaults: Defaults,
    /// The replacements of images.
    pub images: Images,
    /// `--http_credentials`, which every request has to present.
    pub http_credentials: Option<HttpCredentials>,
    /// The heartbeat interval of event streams.
    pub heartbeat: Duration,
    /// `--event_stream_max_outstanding_messages`: how many events wait for a slow consumer.
    pub outstanding: usize,
    /// How often a server checks for a leader before it gives up, and the interval.
    pub leader_checks: (u32, Duration),
    /// How many requests each server's log keeps.
    pub log_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            master: "127.0.0.1:5050".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            standbys: Vec::new(),
            version: Version::default(),
            framework_name: "marathon".to_owned(),
            failover_timeout: Duration::from_hours(168),
            reconciliation_initial_delay: Duration::from_secs(15),
            defaults: Defaults::default(),
            images: Images::default(),
            http_credentials: None,
            heartbeat: Duration::from_secs(10),
            outstanding: 1024,
            leader_checks: (11, Duration::from_millis(250)),
            log_limit: 10_000,
        }
    }
}

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpCredentials(String);

impl HttpCredentials {
    /// Parses `user:password`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':')?;
        (!user.is_empty() && !password.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The value of the `Authorization` header.
    pub(super) fn header(&self) -> String {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(&self.0);
        format!("Basic {encoded}")
    }
}

impl fmt::Debug for HttpCredentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("HttpCredentials")
    }
}
