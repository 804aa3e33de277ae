//! Texts that many items share, such as the ids of agents, kept once.

use std::collections::HashSet;

use arcstr::ArcStr;

/// The texts of one listing, or of all that several keep.
#[derive(Debug, Default)]
pub(crate) struct Interner(HashSet<ArcStr>);

impl Interner {
    /// The one copy of a text.
    pub(crate) fn get(&mut self, text: &str) -> ArcStr {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: ArcStr = text.into();
        self.0.insert(new.clone());
        new
    }

    /// The one copy of a text of which somebody has one already.
    pub(crate) fn share(&mut self, text: &ArcStr) -> ArcStr {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        self.0.insert(text.clone());
        text.clone()
    }

    /// Forgets what nobody else has.
    pub(crate) fn tidy(&mut self) {
        self.0
            .retain(|text| ArcStr::strong_count(text).is_some_and(|count| count > 1));
        self.0.shrink_to(self.0.len() * 2);
    }

    /// The one copy of a text that may be missing; an empty one is missing too.
    pub(crate) fn optional(&mut self, text: Option<&str>) -> Option<ArcStr> {
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
        assert!(ArcStr::ptr_eq(&first, &interner.get("agent")));
        assert!(!ArcStr::ptr_eq(&first, &interner.get("other")));
        assert_eq!(interner.optional(Some("")), None);
        assert_eq!(interner.optional(None), None);
        assert_eq!(interner.optional(Some("agent")).as_ref(), Some(&first));
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut interner = Interner::default();
        let kept = interner.share(&"kept".into());
        let other: ArcStr = "kept".into();
        assert!(ArcStr::ptr_eq(&kept, &interner.share(&other)));
        drop(interner.share(&"gone".into()));
        interner.tidy();
        assert_eq!(interner.0.len(), 1);
        assert!(ArcStr::ptr_eq(&kept, &interner.get("kept")));
    }
}
