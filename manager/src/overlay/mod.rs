//! Overlay networks.

mod config;

pub use config::{OverlayConfig, OverlayDefinition, SubnetPool};
