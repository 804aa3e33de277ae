//! Tasks on networks of Contrail: the real agent, the real manager, a simulated API server, and a
//! simulated vRouter agent that truly forwards.

mod bed;
mod faults;
mod kills;
mod labels;
mod workflow;
