//! Tasks on networks of Contrail: the real agent, the real manager, a simulated API server, and a
//! simulated vRouter agent that truly forwards.

mod attacks;
mod command_line;
mod faults;
mod fixture;
mod kills;
mod labels;
mod workflow;
