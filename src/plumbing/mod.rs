//! The host's network, one small outside interface a file. Knows no Mesos.
