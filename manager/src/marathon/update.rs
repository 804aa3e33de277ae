//! Updates of a Marathon follower.

use super::event::Key;
use super::model::Listing;
use contrail_mesos_api::http::CallError;

/// An update of a follower.
#[derive(Clone, Debug)]
pub enum Update {
    /// The event stream is lost, so changes may be missed from now on. A snapshot follows as soon
    /// as there is one.
    Lost(CallError),
    /// A full listing. It covers every change reported before it. Anything missing from a complete
    /// listing is gone.
    Snapshot(Box<Listing>),
    /// This may have changed: read it again.
    Changed(Key),
}
