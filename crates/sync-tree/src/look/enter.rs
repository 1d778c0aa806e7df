//! Whether a directory may be entered at all: what it hides must be known, it must not be the other end of the tree, and it must
//! be in the file system that is known there.

use std::{io, sync::Arc};

use sync_core::{Problem, TreePath, name::STATE_DIR};

use super::{
    Found,
    batch::Batch,
    rules::read_text,
    walk::{SHARE_ID, TARGET_OF, Visit, Walker, is_gone},
};
use crate::{rooted::Dir, rules::SYNCIGNORE, trouble};

impl Walker<'_> {
    /// The highest directory, of this one and those above it, at which a file system came or went since it was last looked at.
    /// What is below it now is not what is known.
    pub(super) fn displaced(&self, path: &TreePath, dir: &Dir) -> Option<TreePath> {
        let (root, _) = self.root.identity();
        if dir.stat_self().is_ok_and(|stat| stat.dev == root) && !self.mounts.is_known_above(path) {
            return None;
        }
        let (mut at, mut above, mut place) = (self.root.dir(), root, TreePath::root());
        for name in path.names() {
            // What cannot be looked at shows where it matters.
            at = at.open_dir(name).ok()?;
            place = place.join(name);
            let dev = at.stat_self().ok()?.dev;
            if (dev != above) != self.mounts.is_known(&place) {
                return Some(place);
            }
            above = dev;
        }
        None
    }

    /// Nobody knows what is ignored in a directory, so nothing in it may be taken in.
    pub(super) fn unruled(&self, dir: &TreePath, error: &io::Error) -> Found {
        let text = format!(
            "cannot be read: {}; what it hides is not known, so its directory is left as it was",
            trouble::told(error)
        );
        let problem = Problem::new(dir.join(SYNCIGNORE), text);
        if trouble::may_pass(error) { Found::Passing(problem) } else { Found::Problem(problem) }
    }

    /// Reads the directory's rule file if it has one, and applies it to what is below. Answers whether it is new.
    ///
    /// # Errors
    /// It cannot be read, and no earlier text of it is known.
    pub(super) fn take_rules(
        &self,
        visit: &mut Visit,
        has_file: bool,
        batch: &mut Batch<'_, '_>,
    ) -> io::Result<bool> {
        if !self.rules.own {
            return Ok(false);
        }
        let path = &visit.here.path;
        let known = self.rules.texts.get(path);
        let text = if has_file {
            match read_text(&visit.dir, SYNCIGNORE) {
                Ok(text) => Some(text),
                Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::InvalidInput => None,
                // Its own row gets the problem; until it can be read the known rules hold.
                Err(_) if known.is_some() => return Ok(false),
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        if text.as_ref() == known {
            return Ok(false);
        }
        let rules = self.rules.with_text(&visit.rules, path, text.as_deref());
        batch.push(Found::Rule { dir: path.clone(), text, applied: rules.is_some() });
        if let Some(rules) = rules {
            visit.rules = Arc::new(rules);
        }
        Ok(true)
    }

    /// Whether a directory may have a rule file of which nothing is known yet.
    pub(super) fn has_unknown_rules(&self, dir: &Dir, path: &TreePath) -> bool {
        let may_be_there = || !dir.stat(SYNCIGNORE).is_err_and(|error| is_gone(&error));
        self.rules.own && !self.rules.texts.contains_key(path) && may_be_there()
    }

    /// Whether a directory is the other end: a target of this share, or the share of this target. Taking it in would put the
    /// tree into itself, or make a pull take the share apart.
    ///
    /// # Errors
    /// That cannot be told now.
    pub(super) fn is_other_end(&self, dir: &Dir) -> io::Result<bool> {
        let (name, other) = match (self.rules.own, &self.target_of) {
            (true, _) => (TARGET_OF, self.index.share_id().to_hex()),
            (false, Some(share)) => (SHARE_ID, share.clone()),
            (false, None) => return Ok(false),
        };
        match dir.open_dir(STATE_DIR).and_then(|state| read_text(&state, name)) {
            Ok(text) => Ok(text.trim() == other),
            Err(error) if trouble::may_pass(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }
}
