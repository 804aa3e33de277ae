//! Hostile input from Mesos and Marathon: no running container is deleted, and no ended one is kept.
//! A whole manager, from the bytes of both streams to the VNC API.

mod fixture;
mod marathon;
mod mesos;
mod random;

use super::*;
