//! What a place in a tree holds.

use std::fmt;

use crate::name::Name;

/// The identity of a node within one index. Never reused; the root is [`NodeId::ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory of a tree. It has no name and no metadata of its own.
    pub const ROOT: NodeId = NodeId(0);
}

/// A sequence number of the feed. Every change of a node gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Reads a digest that came over the wire or from a database.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The digest as 64 lower-case hexadecimal characters.
    #[must_use]
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..12])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// A file time: seconds since 1970 (negative before) and nanoseconds, `0..1_000_000_000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds on top of them.
    pub nanos: u32,
}

/// What kind of thing a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, carried as a link.
    Symlink,
}

/// What two sides must agree on: kind, and digest or link target. Directories agree by existing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// A regular file: its first `size` bytes, which have this digest.
    File {
        /// Length in bytes.
        size: u64,
        /// BLAKE3 of those bytes.
        digest: Digest,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// The target's bytes, as stored in the link.
        target: Box<[u8]>,
    },
}

impl Content {
    /// The kind of thing this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Content::File { .. } => Kind::File,
            Content::Directory => Kind::Directory,
            Content::Symlink { .. } => Kind::Symlink,
        }
    }

    /// The size in bytes that counts towards totals: a file's length, 0 for the rest.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Content::File { size, .. } => *size,
            Content::Directory | Content::Symlink { .. } => 0,
        }
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self, Content::Directory)
    }
}

/// Everything that is carried about a place: content, mode and time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Kind and bytes.
    pub content: Content,
    /// Modification time.
    pub mtime: Time,
    /// Permission bits, `& 0o777`. Meaningless for symlinks, where it is always 0.
    pub mode: u16,
}

impl Entry {
    /// The kind of thing this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.content.kind()
    }

    /// Whether mode and time are the same as `other`'s, as far as they are carried for this kind.
    #[must_use]
    pub fn same_metadata(&self, other: &Entry) -> bool {
        self.mode == other.mode && self.mtime == other.mtime
    }
}

/// An entry with an identity of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Identity, stable across renames.
    pub id: NodeId,
    /// The directory it is in.
    pub parent: NodeId,
    /// Its name there.
    pub name: Name,
    /// What it holds.
    pub entry: Entry,
}
