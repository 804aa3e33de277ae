//! The packages, made of the programs of this build: installed in a bare Debian 12, upgraded and
//! downgraded below a live container of the real Mesos, removed.

mod artifacts;
mod build;
mod deb;
mod image;
mod rpm;
mod system;
