//! What is in a place goes away.

use super::{Applier, ApplyError, Displaced, Expect, Place, carry};

impl Applier {
    /// Removes a file or link, or moves it (or a whole directory) to the trash. An empty directory is deleted by
    /// [`Applier::remove_dir`]; here `Delete` of a directory means that too.
    ///
    /// What changed meanwhile is not deleted: it stays, or is in the trash if its place was taken.
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: the place holds something else.
    pub fn remove(&self, at: &Place<'_>, expect: &Expect, displaced: Displaced) -> Result<(), ApplyError> {
        match (expect, displaced) {
            (Expect::Nothing, _) => at.check(expect).map(|_| ()),
            (Expect::Directory { ino }, Displaced::Delete) => self.remove_dir(at, *ino),
            (_, Displaced::Trash) => {
                at.check(expect)?;
                self.checked();
                self.trash.take(at.dir, at.name, at.path).map_err(|error| self.refused(at, error))
            }
            (_, Displaced::Delete) => self.delete(at, expect),
        }
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`ApplyError::NotEmpty`]: it holds something, which stays. [`ApplyError::Stale`]: it is another one.
    pub fn remove_dir(&self, at: &Place<'_>, ino: u64) -> Result<(), ApplyError> {
        at.check(&Expect::Directory { ino })?;
        self.checked();
        // RACE: another directory took the name since; it is removed only if it is empty, so no content is lost.
        at.dir.remove_dir(at.name).map_err(|source| match source.kind() {
            // Some systems say "exists" for a directory that is not empty.
            std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists => {
                ApplyError::NotEmpty { path: at.path.clone() }
            }
            _ => at.failed("remove the directory", source),
        })
    }

    /// A name can only be deleted for good once nobody else can reach it, so it is taken aside first.
    fn delete(&self, at: &Place<'_>, expect: &Expect) -> Result<(), ApplyError> {
        at.check(expect)?;
        let name = format!("old-{}{:x}", expect.noted(Displaced::Delete), self.unique());
        self.checked();
        carry(at.dir, at.name, &self.swap, &name).map_err(|error| self.refused(at, error))?;
        self.taken();
        let failed = |source| ApplyError::of_state("delete what was removed", source).about(at.path);
        if expect.survived(&self.swap.stat(&name).map_err(failed)?) {
            return self.swap.remove_file(&name).map_err(failed);
        }
        // Somebody changed it in the last moment.
        self.undo(&self.swap, &name, at)?;
        Err(at.stale())
    }

    /// Puts back what was taken from a place by mistake, or into the trash if something else is there by now.
    pub(super) fn undo(
        &self,
        dir: &crate::rooted::Dir,
        name: &str,
        at: &Place<'_>,
    ) -> Result<(), ApplyError> {
        if carry(dir, name, at.dir, at.name).is_ok() {
            return Ok(());
        }
        tracing::info!(path = %at.path, "it changed while it was being moved; it is in the trash");
        self.trash
            .take(dir, name, at.path)
            .map_err(|source| ApplyError::of_state("move it to the trash", source).about(at.path))
    }
}
