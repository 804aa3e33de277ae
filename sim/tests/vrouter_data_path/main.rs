//! The simulated vRouter agents' data path in the real kernel: two hosts and an outside, each a
//! network namespace, and containers on the hosts. Needs root.

mod namespace;
mod root_tests;
mod testbed;
