//! Large files that arrive in parts: what has come of one stays when its transfer is cut, and the next attempt goes on there.
//!
//! A partial lies in `staging/partial` under the digest of the whole content. So nothing but the content decides what it is a
//! part of: not the file's path, not the run, not the daemon. What it holds is read again before anything is added, and the
//! whole is verified in the end like any other file; a partial that a power cut has damaged is found by that and removed.

use std::{
    collections::HashSet,
    fs::File,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use sync_core::{Digest, Time, chunk::LEAST_FILE_BYTES};

use super::{
    Applier, ApplyError, StagedFile,
    stage::{TEMP_MODE, Temp, write_failed},
    trash,
};
use crate::{
    hash,
    rooted::{Dir, Stat, StatKind, read_file_at, stat_file},
};

/// In staging: see above.
pub(super) const PARTIAL: &str = "partial";

/// Less is not worth a name that stays behind: it came in the first message of a connection.
const KEEP_FROM_BYTES: u64 = 64 << 10;
/// A whole file that did not get to its place is worth hashing it again from here on. Smaller ones come packed.
const KEEP_WHOLE_FROM_BYTES: u64 = 1 << 20;
/// What nobody went on with for so long is deleted, and the oldest first when all together are too large.
const KEEP_FOR: Duration = Duration::from_secs(7 * 86_400);
const KEEP_BYTES: u64 = 64 << 30;

/// Where partials are.
#[derive(Debug)]
pub(super) struct Partials {
    dir: Dir,
    in_use: Arc<Mutex<HashSet<Digest>>>,
}

/// The right to a partial, until it is gone or cut: two files may have the same content.
#[derive(Debug)]
pub(super) struct Lease {
    digest: Digest,
    in_use: Arc<Mutex<HashSet<Digest>>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

impl Partials {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir, in_use: Arc::default() }
    }

    fn lease(&self, digest: &Digest) -> Option<Lease> {
        let is_free = self.in_use.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
        is_free.then(|| Lease { digest: *digest, in_use: self.in_use.clone() })
    }

    /// Opens what there is of a file of this size, or an empty one.
    fn open(&self, name: &str, size: u64) -> io::Result<(File, u64)> {
        let file = self.dir.open_or_create(name, TEMP_MODE)?;
        let stat = stat_file(&file)?;
        if stat.size <= size && stat.nlink == 1 {
            return Ok((file, stat.size));
        }
        // Not what we left there.
        self.dir.remove_file(name)?;
        Ok((self.dir.create_new(name, TEMP_MODE)?, 0))
    }

    /// Opens those that were gone on with last and are large enough to be taken apart, but for the one of this name, with what
    /// each holds.
    fn open_newest(&self, but: &str, most: usize) -> io::Result<Vec<(File, u64)>> {
        let mut found = Vec::new();
        for entry in self.dir.list()? {
            let Ok(name) = String::from_utf8(entry.name.into()) else { continue };
            if name != but
                && let Ok(stat) = self.dir.stat(&name)
                && stat.size >= LEAST_FILE_BYTES
            {
                found.push((stat.mtime, name));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        let open = |(_, name): (Time, String)| {
            // Placed or removed meanwhile: then it is no partial any more.
            let file = self.dir.open_file(&name).ok()?;
            let stat = stat_file(&file).ok()?;
            (stat.nlink == 1).then_some((file, stat.size))
        };
        Ok(found.into_iter().take(most).filter_map(open).collect())
    }

    /// Deletes what is too old, too much or not ours.
    fn prune(&self, now: SystemTime, budget: &mut u64) -> io::Result<()> {
        let oldest = trash::time_of(now.checked_sub(KEEP_FOR).unwrap_or(now));
        let mut kept: Vec<(Time, u64, String)> = Vec::new();
        for entry in self.dir.list()? {
            let Ok(name) = String::from_utf8(entry.name.into()) else { continue };
            let stat = self.dir.stat(&name)?;
            if stat.mtime < oldest || stat.size < KEEP_FROM_BYTES || stat.kind != StatKind::File {
                trash::clear(&self.dir, &name, budget)?;
            } else {
                kept.push((stat.mtime, stat.size, name));
            }
        }
        kept.sort_by(|a, b| b.cmp(a));
        let mut together = 0;
        for (_, size, name) in kept {
            together += size;
            if together > KEEP_BYTES {
                self.dir.remove_file(&name)?;
            }
        }
        Ok(())
    }
}

impl Applier {
    /// Begins a file that will arrive in parts, with what came of it before: [`StagedFile::size`] says how much that is. Blocks
    /// while that is read.
    ///
    /// # Errors
    /// Staging cannot be written.
    pub fn resume(&self, size: u64, digest: &Digest) -> Result<StagedFile, ApplyError> {
        let Some(lease) = self.partials.lease(digest) else { return self.stage() };
        let name = digest.to_hex();
        let (file, have) = self.partials.open(&name, size).map_err(write_failed)?;
        let hasher = hash_first(&file, have).map_err(write_failed)?;
        let (dir, ours) = (self.partials.dir.clone(), have < KEEP_FROM_BYTES);
        Ok(StagedFile::resumed(Temp { dir, name, ours, lease: Some(lease) }, file, hasher, have))
    }

    /// What has come of other contents and was cut, newest first, at most so many, each with its size: what a changed file has
    /// in common with its earlier version may be in there. To be read only; whoever goes on with one only appends to it.
    #[must_use]
    pub fn other_partials(&self, but: &Digest, most: usize) -> Vec<(File, u64)> {
        let found = self.partials.open_newest(&but.to_hex(), most);
        found.inspect_err(|error| tracing::debug!(%error, "partials cannot be read")).unwrap_or_default()
    }

    /// What becomes of a complete file of ours that did not get to its place: a large one waits like a partial, to be neither
    /// sent nor written again; others are deleted.
    pub(super) fn keep_as_partial(&self, dir: &Dir, name: &str, stat: &Stat) -> io::Result<()> {
        if stat.kind != StatKind::File || stat.size < KEEP_WHOLE_FROM_BYTES {
            return dir.remove_file(name);
        }
        let hashed = hash::hash_file(&dir.open_file(name)?, stat.size)?;
        // Its final mode may not let us write it, and its time may be long past.
        dir.set_mode(name, TEMP_MODE)?;
        dir.set_times(name, trash::time_of(SystemTime::now()))?;
        dir.rename_to(name, &self.partials.dir, &hashed.digest.to_hex())
    }

    /// Gives back the room that partials take.
    pub fn clear_partials(&self) {
        let Ok(entries) = self.partials.dir.list() else { return };
        for entry in entries {
            // What cannot be removed now is too old some day.
            let _ = std::str::from_utf8(&entry.name).map(|name| self.partials.dir.remove_file(name));
        }
    }

    pub(super) fn prune_partials(&self, now: SystemTime, budget: &mut u64) -> io::Result<()> {
        self.partials.prune(now, budget)
    }
}

/// Whether what has come of a file is left where it is if its transfer ends here.
pub(super) fn is_kept(size: u64) -> bool {
    size >= KEEP_FROM_BYTES
}

fn hash_first(file: &File, size: u64) -> io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    hash::with_buffer(|buffer| {
        while at < size {
            let want = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
            read_file_at(file, &mut buffer[..want], at)?;
            hasher.update(&buffer[..want]);
            at += want as u64;
        }
        Ok(hasher)
    })
}
