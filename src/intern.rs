//! Texts that many items share, such as the ids of agents, kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// The texts of one listing.
#[derive(Debug, Default)]
pub struct Interner(HashSet<Arc<str>>);

impl Interner {
    /// The one copy of a text.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }

    /// The one copy of a text that may be missing; an empty one is missing too.
    pub fn optional(&mut self, text: Option<&str>) -> Option<Arc<str>> {
        text.filter(|text| !text.is_empty())
            .map(|text| self.get(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_kept_once() {
        let mut interner = Interner::default();
        let first = interner.get("agent");
        assert!(Arc::ptr_eq(&first, &interner.get("agent")));
        assert!(!Arc::ptr_eq(&first, &interner.get("other")));
        assert_eq!(interner.optional(Some("")), None);
        assert_eq!(interner.optional(None), None);
        assert_eq!(interner.optional(Some("agent")).as_ref(), Some(&first));
    }
}
