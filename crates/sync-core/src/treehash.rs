//! How two trees are compared without being sent: every directory has a digest over its children.
//!
//! The digest of a directory is BLAKE3 over the *sum* of one 512-bit hash for each child. A sum does not depend on order
//! and can be corrected by subtracting the old child and adding the new one, so a change in a directory of a million
//! files costs the same as in one of ten: nothing is sorted or read again, only the ancestors are touched. (A sum of hashes
//! is weaker against someone who *chooses* the children than a hash of a list; that is no loss here, since every file's own
//! digest is checked when it is transferred and the root digest only says whether two honest parties agree.)
//!
//! In a child's record: name, kind, and for a file mode, mtime, size and digest; for a link its target; for a directory
//! mode and its own digest. Not in it: mtimes of links and directories, modes of links, anything of the root itself.

use crate::entry::{Content, Digest, Entry};

/// The sum over a directory's children. The empty directory's is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirSum([u64; 8]);

impl DirSum {
    /// Length of the stored form.
    pub const LEN: usize = 64;

    /// The contribution of one child. `subtree` is the digest of a directory child and ignored for others.
    #[must_use]
    pub fn of_child(name: &str, entry: &Entry, subtree: Option<&Digest>) -> Self {
        let mut hasher = blake3::Hasher::new();
        // The length in front keeps "ab" + "c" apart from "a" + "bc".
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        match &entry.content {
            Content::File { size, digest } => {
                hasher.update(b"f");
                hasher.update(&entry.mode.to_le_bytes());
                hasher.update(&entry.mtime.secs.to_le_bytes());
                hasher.update(&entry.mtime.nanos.to_le_bytes());
                hasher.update(&size.to_le_bytes());
                hasher.update(&digest.0);
            }
            Content::Directory => {
                hasher.update(b"d");
                hasher.update(&entry.mode.to_le_bytes());
                hasher.update(&subtree.copied().unwrap_or_else(|| Self::default().digest()).0);
            }
            Content::Symlink { target } => {
                hasher.update(b"l");
                hasher.update(target);
            }
        }
        let mut bytes = [0; Self::LEN];
        hasher.finalize_xof().fill(&mut bytes);
        Self::from_bytes(&bytes)
    }

    /// Adds a child's contribution.
    pub fn add(&mut self, child: &Self) {
        for (lane, other) in self.0.iter_mut().zip(child.0) {
            *lane = lane.wrapping_add(other);
        }
    }

    /// Takes a child's contribution away again.
    pub fn subtract(&mut self, child: &Self) {
        for (lane, other) in self.0.iter_mut().zip(child.0) {
            *lane = lane.wrapping_sub(other);
        }
    }

    /// The directory's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (chunk, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    /// Reads the stored form; `None` if it has the wrong length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_bytes(bytes.try_into().ok()?))
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut lanes = [0; 8];
        for (lane, chunk) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
            *lane = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
        }
        Self(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Time;

    fn file(text: &str, mode: u16, secs: i64) -> Entry {
        let content = Content::File { size: text.len() as u64, digest: Digest::of(text.as_bytes()) };
        Entry { content, mtime: Time { secs, nanos: 0 }, mode }
    }

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let a = DirSum::of_child("a", &file("1", 0o644, 1), None);
        let b = DirSum::of_child("b", &file("2", 0o644, 1), None);
        let (mut ab, mut ba) = (DirSum::default(), DirSum::default());
        ab.add(&a);
        ab.add(&b);
        ba.add(&b);
        ba.add(&a);
        assert_eq!(ab, ba);
        ab.subtract(&b);
        assert_eq!(ab, a);
        assert_eq!(DirSum::from_slice(&ab.to_bytes()), Some(ab));
    }

    #[test]
    fn everything_that_is_carried_counts() {
        let base = DirSum::of_child("a", &file("1", 0o644, 1), None);
        for other in [
            DirSum::of_child("b", &file("1", 0o644, 1), None),
            DirSum::of_child("a", &file("2", 0o644, 1), None),
            DirSum::of_child("a", &file("1", 0o600, 1), None),
            DirSum::of_child("a", &file("1", 0o644, 2), None),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn times_of_directories_and_links_do_not_count() {
        let dir = |secs| Entry { content: Content::Directory, mtime: Time { secs, nanos: 0 }, mode: 0o755 };
        assert_eq!(DirSum::of_child("d", &dir(1), None), DirSum::of_child("d", &dir(2), None));
        let link = |secs| Entry {
            content: Content::Symlink { target: b"x".as_slice().into() },
            mtime: Time { secs, nanos: 0 },
            mode: 0,
        };
        assert_eq!(DirSum::of_child("l", &link(1), None), DirSum::of_child("l", &link(2), None));
    }
}
