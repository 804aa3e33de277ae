//! Which root filesystem stands in for an image: no registry is within reach of a test machine.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What is used in place of images and of the commands that they would have brought.
#[derive(Clone, Debug)]
pub struct Images {
    /// Image by image: the name of a local image, or nothing for the agent's own filesystem.
    pub by_name: BTreeMap<String, Option<String>>,
    /// For every other image; nothing for the agent's own filesystem.
    pub otherwise: Option<String>,
    /// Whether images that are not in `by_name` are left as they are, `otherwise` or not.
    pub keep: bool,
    /// The shell command of a container that has none, because its image would bring one.
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
    /// The local image for `image`; nothing means the agent's own filesystem.
    #[must_use]
    pub fn local<'a>(&'a self, image: &'a str) -> Option<&'a str> {
        match self.by_name.get(image) {
            Some(local) => local.as_deref(),
            None if self.keep => Some(image),
            None => self.otherwise.as_deref(),
        }
    }

    /// A message `Image` of type DOCKER for it.
    #[must_use]
    pub fn message(&self, image: &str, force_pull: bool) -> Option<Value> {
        let local = self.local(image)?;
        Some(json!({"type": "DOCKER", "docker": {"name": local}, "cached": !force_pull}))
    }
}
