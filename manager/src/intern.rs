//! Interning of strings that many items share, such as agent ids.

use std::collections::HashSet;

use arcstr::ArcStr;

/// Interned strings, of one listing or of several caches.
#[derive(Debug, Default)]
pub(crate) struct Interner(HashSet<ArcStr>);

impl Interner {
    /// The shared copy of a string.
    pub(crate) fn get(&mut self, text: &str) -> ArcStr {
        if let Some(interned) = self.0.get(text) {
            return interned.clone();
        }
        let new: ArcStr = text.into();
        self.0.insert(new.clone());
        new
    }

    /// The shared copy of a string; `text` itself if there was none.
    pub(crate) fn share(&mut self, text: &ArcStr) -> ArcStr {
        if let Some(interned) = self.0.get(text) {
            return interned.clone();
        }
        self.0.insert(text.clone());
        text.clone()
    }

    /// Removes the strings that nothing else refers to.
    pub(crate) fn remove_unused(&mut self) {
        self.0
            .retain(|text| ArcStr::strong_count(text).is_some_and(|count| count > 1));
        self.0.shrink_to(self.0.len() * 2);
    }

    /// The shared copy of an optional string; `None` for an empty one.
    pub(crate) fn optional(&mut self, text: Option<&str>) -> Option<ArcStr> {
        text.filter(|text| !text.is_empty())
            .map(|text| self.get(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_shared() {
        let mut interner = Interner::default();
        let first = interner.get("agent");
        assert!(ArcStr::ptr_eq(&first, &interner.get("agent")));
        assert!(!ArcStr::ptr_eq(&first, &interner.get("other")));
        assert_eq!(interner.optional(Some("")), None);
        assert_eq!(interner.optional(None), None);
        assert_eq!(interner.optional(Some("agent")).as_ref(), Some(&first));
    }

    #[test]
    fn unused_strings_are_removed() {
        let mut interner = Interner::default();
        let kept = interner.share(&"kept".into());
        let other: ArcStr = "kept".into();
        assert!(ArcStr::ptr_eq(&kept, &interner.share(&other)));
        drop(interner.share(&"unused".into()));
        interner.remove_unused();
        assert_eq!(interner.0.len(), 1);
        assert!(ArcStr::ptr_eq(&kept, &interner.get("kept")));
    }
}
