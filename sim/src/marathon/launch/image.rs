//! Replacements of images, as test machines have no access to a registry.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What replaces images, and the commands of images.
#[derive(Clone, Debug)]
pub struct Images {
    /// The local image for each image; none for the agent's own filesystem.
    pub by_name: BTreeMap<String, Option<String>>,
    /// The local image for all others; none for the agent's own filesystem.
    pub otherwise: Option<String>,
    /// Whether to keep images that are not in `by_name`; this takes precedence over `otherwise`.
    pub keep: bool,
    /// The shell command of containers that rely on the command of their image.
    pub default_command: String,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            otherwise: None,
            keep: false,
            default_command: "while :; do sleep 3600; done".to_owned(),
        }
    }
}

impl Images {
    /// The local image for `image`; none for the agent's own filesystem.
    #[must_use]
    pub fn local<'a>(&'a self, image: &'a str) -> Option<&'a str> {
        match self.by_name.get(image) {
            Some(local) => local.as_deref(),
            None if self.keep => Some(image),
            None => self.otherwise.as_deref(),
        }
    }

    /// An `Image` message of type DOCKER.
    #[must_use]
    pub fn message(&self, image: &str, force_pull: bool) -> Option<Value> {
        let local = self.local(image)?;
        Some(json!({"type": "DOCKER", "docker": {"name": local}, "cached": !force_pull}))
    }
}
