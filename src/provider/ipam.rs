//! Host-local address management.
