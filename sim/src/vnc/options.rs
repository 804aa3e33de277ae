//! Options of the simulated server.

use std::time::Duration;

use super::auth::Keystone;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Authentication of clients.
    pub auth: Auth,
    /// The delay of every response.
    pub delay: Duration,
    /// Whether header and body of a response are written apart under Nagle's algorithm, as the
    /// real server does: on a reused connection, a client that delays acknowledgements waits
    /// 40 ms for the body.
    pub split_writes: bool,
    /// How many requests the log keeps.
    pub log_limit: usize,
    /// How many changes a slow follower may be behind.
    pub backlog: usize,
}

/// Authentication of clients.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// None.
    #[default]
    None,
    /// A token, which the server itself issues at `/v3/auth/tokens` and `/v2.0/tokens`.
    Keystone(Keystone),
    /// A user name and a password in every request, as on the real server's port for the local
    /// administrator.
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: String,
    },
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auth: Auth::None,
            delay: Duration::ZERO,
            split_writes: false,
            log_limit: 100_000,
            backlog: 65_536,
        }
    }
}
