//! Whatever Mesos and Marathon say, and however it is cut: nothing is deleted that lives, and
//! nothing is kept that is dead. A whole manager, from the bytes of both streams to the VNC API.

mod bed;
mod marathon;
mod mesos;
mod random;

use super::*;
