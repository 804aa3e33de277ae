//! The client of the vRouter agent.
