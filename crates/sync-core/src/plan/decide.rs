//! The decision about one place.

use crate::entry::Content;

/// One of the two sides of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first: for a pull, the remote.
    Left,
    /// The second: for a pull, the target.
    Right,
}

/// Whose content a place should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Both have the same.
    Agree,
    /// This side changed it, the other did not.
    Take(Side),
    /// Both changed it, differently.
    Conflict,
}

/// What to do where the sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// A pull: the left side always wins. What only the right side has goes to the trash.
    #[default]
    LeftWins,
    /// `pull --full`: like `LeftWins`, and every file's content is taken anew even where both agree.
    LeftWinsAnew,
}

/// Decides the content of one place. `base` is what both sides last agreed on; mode and time are decided apart.
#[must_use]
pub fn decide(base: Option<&Content>, left: Option<&Content>, right: Option<&Content>) -> Decision {
    if left == right {
        return Decision::Agree;
    }
    // From here on the sides differ, so at most one of them still equals the base.
    if left == base {
        return Decision::Take(Side::Right);
    }
    if right == base {
        return Decision::Take(Side::Left);
    }
    Decision::Conflict
}

#[cfg(test)]
mod tests {
    use super::{
        Decision::{Agree, Conflict, Take},
        Side::{Left, Right},
        *,
    };
    use crate::entry::Digest;

    fn file(text: &str) -> Content {
        Content::File { size: text.len() as u64, digest: Digest::of(text.as_bytes()) }
    }

    #[test]
    fn decide_truth_table() {
        let (a, b, c, dir) = (file("a"), file("b"), file("c"), Content::Directory);
        let link = Content::Symlink { target: b"a".as_slice().into() };
        for (base, left, right, want) in [
            (None, None, None, Agree),
            (Some(&a), None, None, Agree), // both deleted it
            (Some(&a), Some(&a), Some(&a), Agree),
            (Some(&a), Some(&b), Some(&b), Agree), // both made the same edit
            (None, Some(&a), Some(&a), Agree),     // both made the same file
            (Some(&dir), Some(&dir), Some(&dir), Agree),
            (Some(&a), Some(&a), Some(&b), Take(Right)),
            (Some(&a), Some(&b), Some(&a), Take(Left)),
            (Some(&a), None, Some(&a), Take(Left)), // a deletion travels like an edit
            (Some(&a), Some(&a), None, Take(Right)),
            (None, Some(&a), None, Take(Left)),
            (None, None, Some(&a), Take(Right)),
            (Some(&a), Some(&dir), Some(&a), Take(Left)), // so does a change of kind
            (Some(&dir), Some(&dir), Some(&link), Take(Right)),
            (Some(&a), None, Some(&b), Conflict), // edit against delete
            (Some(&a), Some(&b), None, Conflict),
            (None, Some(&b), Some(&c), Conflict),
            (Some(&a), Some(&b), Some(&c), Conflict),
            (None, Some(&a), Some(&link), Conflict), // a link is not what it points to
        ] {
            assert_eq!(decide(base, left, right), want, "{base:?} {left:?} {right:?}");
        }
    }

    #[test]
    fn swapping_the_sides_mirrors_the_decision() {
        let values = [None, Some(file("a")), Some(file("b")), Some(Content::Directory)];
        for base in &values {
            for left in &values {
                for right in &values {
                    let mirrored = match decide(base.as_ref(), right.as_ref(), left.as_ref()) {
                        Take(Left) => Take(Right),
                        Take(Right) => Take(Left),
                        other => other,
                    };
                    assert_eq!(decide(base.as_ref(), left.as_ref(), right.as_ref()), mirrored);
                }
            }
        }
    }
}
