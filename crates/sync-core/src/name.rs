//! Names and paths as they travel: validated once, here, and trusted everywhere else.
//!
//! A [`Name`] is one component, a [`TreePath`] is a relative path of them. Neither can leave the tree it is used in:
//! no `/` inside a name, no NUL, no `.` or `..`, nothing empty, and never the state directory `.syncd` in any case.

use std::{borrow::Borrow, cmp::Ordering, fmt, ops::Deref};

use smol_str::SmolStr;

/// The directory that holds the state of a share or target; it is never an entry, in any case and at any depth.
pub const STATE_DIR: &str = ".syncd";

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("The name is empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("The name is a path step")]
    Dots,
    /// The name holds `/` or NUL.
    #[error("The name holds a slash or a NUL")]
    Separator,
    /// The name is the state directory's.
    #[error("The name belongs to syncd itself")]
    Reserved,
    /// The name is not UTF-8.
    #[error("The name is not UTF-8")]
    NotUtf8,
    /// The name is longer than any file system allows.
    #[error("The name is longer than 255 bytes")]
    TooLong,
}

/// One component of a path: valid UTF-8 that names exactly one place in a directory.
///
/// Of each node of a tree the name is in several hands at once. Most are short, and take no memory of their own; the others are shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmolStr);

impl Name {
    /// Validates a name that came from a disk or a peer.
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// Validates a name as the disk gives it.
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn from_bytes(name: &[u8]) -> Result<Self, NameError> {
        Self::new(std::str::from_utf8(name).map_err(|_| NameError::NotUtf8)?)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Validates a name as a message has it.
impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        check(&name)?;
        Ok(Self(name.into()))
    }
}

fn check(name: &str) -> Result<(), NameError> {
    match name {
        "" => Err(NameError::Empty),
        "." | ".." => Err(NameError::Dots),
        _ if name.bytes().any(|b| b == b'/' || b == 0) => Err(NameError::Separator),
        _ if name.eq_ignore_ascii_case(STATE_DIR) => Err(NameError::Reserved),
        // 255 bytes is the limit of every file system we write to; more would only fail later with a worse message.
        _ if name.len() > 255 => Err(NameError::TooLong),
        _ => Ok(()),
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

/// A place in a tree, relative to its root, with `/` between names. The root itself is the empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Box<str>);

impl TreePath {
    /// The root of a tree.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Validates a path that came from a person, a disk or a peer.
    ///
    /// # Errors
    /// Says which rule the first bad component breaks.
    pub fn new(path: &str) -> Result<Self, NameError> {
        if path.is_empty() {
            return Ok(Self::root());
        }
        path.split('/').try_for_each(check)?;
        Ok(Self(path.into()))
    }

    /// The path of a child.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        debug_assert!(check(name).is_ok(), "join takes one validated name");
        if self.is_root() {
            return Self(name.into());
        }
        let mut path = String::with_capacity(self.0.len() + 1 + name.len());
        path.push_str(&self.0);
        path.push('/');
        path.push_str(name);
        Self(path.into())
    }

    /// The path as text; empty for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds this place and the name there; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(TreePath, &str)> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.rsplit_once('/') {
            Some((parent, name)) => (Self(parent.into()), name),
            None => (Self::root(), &self.0),
        })
    }

    /// The directory that holds this place; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<TreePath> {
        self.split().map(|(parent, _)| parent)
    }

    /// The order in which a walk comes by: all that is below a place right after it. (In the order of their text "a-b" is between
    /// "a" and "a/b".)
    #[must_use]
    pub fn cmp_in_walk(&self, other: &Self) -> Ordering {
        // No name has a zero byte, so a separator in its place ends a name before any longer one.
        let key = |byte| if byte == b'/' { 0 } else { byte };
        self.0.bytes().map(key).cmp(other.0.bytes().map(key))
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// How many names the path has.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// Whether this place is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &TreePath) -> bool {
        match self.0.strip_prefix(&*ancestor.0) {
            Some(rest) => ancestor.is_root() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// For people: the root is `.`, and what must not be printed is escaped. [`TreePath::as_str`] is the path as it is.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { f.write_str(&escape(&self.0)) }
    }
}

/// Text that is safe to print: control characters (and the C1 range, which terminals also obey) are escaped.
#[must_use]
pub fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.chars().any(is_unsafe_to_print) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe_to_print(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// The Unicode marks that reorder text count as well: a name must not be able to fake the line it is printed in.
fn is_unsafe_to_print(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_for_the_right_reason() {
        let long = "x".repeat(256);
        for (name, want) in [
            ("", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            ("a/b", NameError::Separator),
            ("a\0", NameError::Separator),
            (".syncd", NameError::Reserved),
            (".SyncD", NameError::Reserved),
            (long.as_str(), NameError::TooLong),
        ] {
            assert_eq!(Name::new(name), Err(want), "{name:?}");
        }
        assert_eq!(Name::from_bytes(b"\xff"), Err(NameError::NotUtf8));
    }

    /// Short and long ones are kept in other ways.
    #[test]
    fn names_of_any_length_are_equal_and_ordered_as_their_texts() {
        let texts: Vec<String> = ["x", "名", "🎉"]
            .iter()
            .flat_map(|part| (1..=255 / part.len()).map(|count| part.repeat(count)))
            .collect();
        for text in &texts {
            let name = Name::new(text).unwrap();
            assert_eq!((name.as_str(), name.clone()), (text.as_str(), name.clone()));
            assert_eq!(Name::try_from(text.clone()), Ok(name.clone()));
            assert!(std::collections::HashSet::from([name.clone()]).contains(text.as_str()));
            for other in &texts {
                assert_eq!(name.cmp(&Name::new(other).unwrap()), text.cmp(other));
            }
        }
    }

    #[test]
    fn strange_but_legal_names_pass() {
        for name in [
            "中文 名字.txt",
            "a b",
            "🎉",
            "new\nline",
            "quo\"te'",
            "back\\slash",
            "-rf",
            "...",
            ".syncd2",
            &"x".repeat(255),
        ] {
            assert!(Name::new(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn paths_split_join_and_contain() {
        let path = TreePath::new("a/b/c").unwrap();
        assert_eq!(path.split(), Some((TreePath::new("a/b").unwrap(), "c")));
        assert_eq!(TreePath::root().join("a").join("b").join("c"), path);
        assert!(path.is_within(&TreePath::new("a/b").unwrap()));
        assert!(path.is_within(&TreePath::root()));
        assert!(!path.is_within(&TreePath::new("a/bb").unwrap()));
        assert!(!TreePath::new("a/bb").unwrap().is_within(&TreePath::new("a/b").unwrap()));
        assert_eq!(path.depth(), 3);
        assert_eq!(TreePath::new("a/../b"), Err(NameError::Dots));
        assert_eq!(TreePath::new("/a"), Err(NameError::Empty));
    }

    #[test]
    fn a_walk_comes_by_what_is_below_a_place_right_after_it() {
        let names = ["a", "a b", "a!", "a-b", "a.b", "aa", "b", "\u{1}", "中"];
        let mut paths = vec![TreePath::root()];
        for depth in 0..3 {
            let dirs: Vec<_> = paths.iter().filter(|path| path.depth() == depth).cloned().collect();
            paths.extend(dirs.iter().flat_map(|dir| names.map(|name| dir.join(name))));
        }
        for a in &paths {
            for b in &paths {
                assert_eq!(a.cmp_in_walk(b), a.names().cmp(b.names()), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn printing_never_moves_the_cursor() {
        assert_eq!(escape("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(escape("中文"), "中文");
        assert_eq!(escape(&escape("a\n")), "a\\n", "escaped twice is escaped once");
        let path = TreePath::new("a\u{1b}[2J/b\u{202e}c").unwrap();
        assert_eq!(path.to_string(), "a\\u{1b}[2J/b\\u{202e}c");
        assert_eq!(TreePath::root().to_string(), ".");
    }
}
