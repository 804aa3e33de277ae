//! Which of several managers leads, by the word of ZooKeeper.
//!
//! ```text
//! <path>/candidates/manager-NNNNNNNNNN   ephemeral, sequential: {id, url}. The lowest number is next
//! <path>/term                            {term, id, url, lease_ms, released}: who may write
//! ```
//!
//! A candidate whose number is the lowest writes the next term into `term`, if nobody else has in
//! the meantime: ZooKeeper compares the node's version. From then on it renews its lease by writing
//! the node again, under the same condition.
//!
//! Invariants:
//! - **No two leaders at a time.** A lease counts from before its renewal was sent and lasts half
//!   the session's timeout. Once somebody else has written `term`, no renewal of the former leader
//!   succeeds; and the one who wrote waits until the last renewal that it overwrote must have run
//!   out. It counts from when it first saw that renewal itself, which was later than it was sent.
//!   So it does not matter what time a clock tells, or when and why a node vanished, but only that
//!   all machines' clocks run equally fast. (A virtual machine that is halted as a whole does not
//!   count that time: it may write for the rest of its lease when it goes on.) A leader that took
//!   leave has given up its lease, and nobody waits for it.
//! - **It stops at the first sign**: when the connection to ZooKeeper is lost or the lease not
//!   renewed in time, whichever is first. A session's end comes much later.
//! - A term rises by one with every leader and never repeats, unless somebody removes the node; then
//!   all begin anew, after a lease's time. A leader that was cut off and comes
//!   back with its session before anybody took over goes on in its term.
//! - What is not understood, a lost node or a foreign one, ends the session, and a new one begins.

mod campaign;
mod record;

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;
use zookeeper_client::{Acls, Client};

use super::fence::{self, Fence, Keeper};
use campaign::Campaign;
use contrail_mesos_api::http::Address;

/// How long a failed session is left alone before the next one.
const PAUSE: Duration = Duration::from_millis(500);
/// How long taking leave may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where the election is.
#[derive(Clone, Debug)]
pub struct ZooKeeper {
    /// `host:port,host:port`
    pub servers: String,
    /// The node under which everything is, such as `/contrail-mesos`.
    pub path: String,
    /// `user:password`. With it, nobody else may touch the nodes.
    pub digest: Option<SecretString>,
    /// After how long without a sign of life a manager's candidature ends. The servers may set
    /// another.
    pub session_timeout: Duration,
    /// Where the other managers send agents that are to ask this one; by default where it listens.
    pub advertise: Option<Address>,
}

/// A candidature. It ends when it is resigned or dropped; then others have to wait for its end.
#[derive(Debug)]
pub(super) struct Election {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Election {
    /// Stands for election from now on, for ever. Whoever leads is known by the fence.
    pub(super) fn start(options: ZooKeeper, url: Address) -> (Self, Fence) {
        let (keeper, fence) = fence::fence("it is connecting to ZooKeeper");
        let stop = CancellationToken::new();
        let task = tokio::spawn(stand(options, url, keeper, stop.clone()));
        let task = AbortOnDropHandle::new(task);
        (Self { stop, task }, fence)
    }

    /// Gives up the lease and the candidature. What writes has to have ended.
    pub(super) async fn resign(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(FAREWELL, self.task).await;
    }
}

impl ZooKeeper {
    fn acls(&self) -> Acls<'static> {
        if self.digest.is_some() {
            Acls::creator_all()
        } else {
            Acls::anyone_all()
        }
    }

    async fn connect(&self) -> Result<Client, zookeeper_client::Error> {
        let connector = Client::connector().with_session_timeout(self.session_timeout);
        let connector = match &self.digest {
            Some(digest) => connector.with_auth("digest", digest.expose_secret().as_bytes()),
            None => connector,
        };
        connector.connect(&self.servers).await
    }
}

/// One session after another.
async fn stand(options: ZooKeeper, url: Address, keeper: Keeper, stop: CancellationToken) {
    // Another one with every start: what a killed manager left is not taken for our own.
    let id = Uuid::new_v4();
    loop {
        let client = tokio::select! {
            () = stop.cancelled() => return,
            client = options.connect() => client,
        };
        let problem = match client {
            Ok(client) => {
                let mut campaign = Campaign::new(&options, client, id, &url, &keeper);
                tokio::select! {
                    problem = campaign.run() => problem,
                    () = stop.cancelled() => return campaign.leave().await,
                }
            }
            Err(error) => format!("cannot connect: {error}"),
        };
        keeper.close(format!("ZooKeeper {}: {problem}", options.servers));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
