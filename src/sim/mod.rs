//! What `contrail-mesos-sim` is made of.

pub mod vnc;
