//! Texts that many items share, such as the ids of agents, kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// The texts of one listing, or of all that several keep.
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

    /// The one copy of a text of which somebody has one already.
    pub fn share(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        self.0.insert(Arc::clone(text));
        Arc::clone(text)
    }

    /// Forgets what nobody else has.
    pub fn tidy(&mut self) {
        self.0.retain(|text| Arc::strong_count(text) > 1);
        self.0.shrink_to(self.0.len() * 2);
    }

    /// How many texts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut interner = Interner::default();
        let kept = interner.share(&"kept".into());
        let other: Arc<str> = "kept".into();
        assert!(Arc::ptr_eq(&kept, &interner.share(&other)));
        drop(interner.share(&"gone".into()));
        interner.tidy();
        assert_eq!(interner.len(), 1);
        assert!(Arc::ptr_eq(&kept, &interner.get("kept")));
    }
}
