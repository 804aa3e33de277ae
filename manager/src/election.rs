//! Leader election between several managers, by ZooKeeper.
//!
//! ```text
//! <path>/candidates/manager-NNNNNNNNNN   ephemeral, sequential: {id, url}. The lowest number leads next
//! <path>/term                            {term, id, url, lease_ms, released}: the current leader
//! ```
//!
//! The candidate with the lowest number writes the next term into `term`, on the condition that the
//! node's version has not changed. It then renews its lease by writing the node again, on the same
//! condition.
//!
//! Invariants:
//! - **No two leaders at a time.** A lease begins before its renewal is sent and lasts half the
//!   session's timeout. Once another manager has written `term`, no renewal of the former leader
//!   succeeds, and the new leader waits until the lease that it replaced has expired. It measures
//!   that time from when it first read the last renewal, which is later than when that renewal was
//!   sent. Safety therefore does not depend on clock offsets or on when and why nodes disappear, but
//!   only on clock rates: all machines' clocks must run equally fast. (A virtual machine that is
//!   suspended does not count that time: when it resumes, it may write for the rest of its lease.)
//!   A leader that resigns releases its lease, and its successor does not wait.
//! - **A leader stops early**: when the connection to ZooKeeper is lost or when the lease expires,
//!   whichever is first. The session expires much later.
//! - The term increases by one with every leader and never repeats, unless somebody deletes the node;
//!   then it restarts, after the duration of a lease. A leader that reconnects within its session
//!   before another manager has taken over continues its term.
//! - Unexpected content, a missing node or one of another program ends the session, and a new session
//!   begins.

mod record;
mod session;

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;
use zookeeper_client::{Acl, Acls, Client, CreateMode, Error, Permission};

use super::fence::{self, Fence, FenceControl};
use contrail_mesos_api::http::Address;
use session::Session;

/// The delay before a new session after one has failed.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The time limit of resigning.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The configuration of the election.
#[derive(Clone, Debug)]
pub struct ZooKeeper {
    /// `host:port,host:port`
    pub servers: String,
    /// The node that holds the election, such as `/contrail-mesos`.
    pub path: String,
    /// `user:password`. If set, only this user can change the nodes.
    pub digest: Option<SecretString>,
    /// How long a manager may be silent before it is no longer a candidate. The servers may impose
    /// another value.
    pub session_timeout: Duration,
    /// The URL to which the other managers redirect agents while this one leads; by default its
    /// listening address.
    pub advertise: Option<Address>,
}

/// A running candidacy. If it is dropped without [`Election::resign`], the other managers wait until
/// its lease and session expire.
#[derive(Debug)]
pub(super) struct Election {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Election {
    /// Becomes a candidate. The fence tells who leads.
    pub(super) fn start(options: ZooKeeper, url: Address) -> (Self, Fence) {
        let (control, fence) = fence::fence("it is connecting to ZooKeeper");
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(options, url, control, stop.clone()));
        let task = AbortOnDropHandle::new(task);
        (Self { stop, task }, fence)
    }

    /// Releases the lease and the candidacy. Everything that writes must have ended.
    pub(super) async fn resign(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.task).await;
    }
}

impl PartialEq for ZooKeeper {
    fn eq(&self, other: &Self) -> bool {
        let fields = |options: &Self| {
            let Self {
                servers,
                path,
                digest,
                session_timeout,
                advertise,
            } = options.clone();
            let digest = digest.map(|digest| digest.expose_secret().to_owned());
            (servers, path, digest, session_timeout, advertise)
        };
        fields(self) == fields(other)
    }
}

impl ZooKeeper {
    /// Who may change the nodes.
    pub(crate) fn acls(&self) -> Acls<'static> {
        if self.digest.is_some() {
            Acls::creator_all()
        } else {
            Acls::anyone_all()
        }
    }

    /// Creates the directory `path`, which is below the configured one. Others may need what is above that,
    /// such as the directory of the Mesos masters: they can read it, as when Mesos creates it.
    pub(crate) async fn make_directory(&self, client: &Client, path: &str) -> Result<(), Error> {
        let own = CreateMode::Persistent.with_acls(self.acls());
        // What exists is not asked for: its creation may be refused before it is known to exist.
        for directory in [path, &self.path] {
            match client.create(directory, &[], &own).await {
                Err(Error::NoNode) => {}
                Err(error) if error != Error::NodeExists => return Err(error),
                _ => return client.mkdir(path, &own).await,
            }
        }
        let (parent, _) = self.path.rsplit_once('/').unwrap_or_default();
        if parent.is_empty() {
            return Err(Error::NoNode);
        }
        let shared = CreateMode::Persistent.with_acls(self.parent_acls());
        client.mkdir(parent, &shared).await?;
        client.mkdir(path, &own).await
    }

    /// Who may read and change the directories above the configured one, if a manager creates them.
    fn parent_acls(&self) -> Acls<'static> {
        static READ_BY_ALL: [Acl; 2] = [
            Acl::new_const(Permission::READ, "world", "anyone"),
            Acl::new_const(Permission::ALL, "auth", ""),
        ];
        if self.digest.is_some() {
            Acls::new(&READ_BY_ALL)
        } else {
            self.acls()
        }
    }

    /// Opens a session.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let connector = Client::connector().with_session_timeout(self.session_timeout);
        let connector = match &self.digest {
            Some(digest) => connector.with_auth("digest", digest.expose_secret().as_bytes()),
            None => connector,
        };
        connector.connect(&self.servers).await
    }
}

/// Runs one session after another.
async fn run(options: ZooKeeper, url: Address, control: FenceControl, stop: CancellationToken) {
    // Unique per start: nodes of a killed manager are not mistaken for those of its successor.
    let id = Uuid::new_v4();
    loop {
        let client = tokio::select! {
            () = stop.cancelled() => return,
            client = options.connect() => client,
        };
        let problem = match client {
            Ok(client) => {
                let mut session = Session::new(&options, client, id, &url, &control);
                tokio::select! {
                    problem = session.run() => problem,
                    () = stop.cancelled() => return session.resign().await,
                }
            }
            Err(error) => format!("cannot connect: {error}"),
        };
        control.close(format!("ZooKeeper {}: {problem}", options.servers));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_DELAY) => {}
        }
    }
}
