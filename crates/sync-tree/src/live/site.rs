//! Everything that belongs to one opened root, replaced together when another root is accepted.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{LiveOptions, TreeError};
use crate::{
    durable,
    fresh::Fresh,
    index::Index,
    lock::Lock,
    look::{Looker, RulePolicy, SHARE_ID, small_text},
    rooted::{Dir, Root},
    serve::Handles,
    state::{StateDir, StateOptions, state_home},
    told::Told,
};

/// The share's database in its state directory.
const DATABASE: &str = "share.db";

/// The share's lock in its state directory.
pub(super) const LOCK: &str = "share";

/// Where cookies are made if the tree cannot be written.
const COOKIES: &str = "cookies";

/// An opened root with its state.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) root: Root,
    pub(crate) state: StateDir,
    pub(crate) index: Index,
    pub(crate) looker: Looker,
    pub(crate) cookies: Dir,
    pub(crate) cookies_path: PathBuf,
    pub(crate) handles: Handles,
    pub(crate) fresh: Arc<Fresh>,
    pub(crate) told: Told,
}

impl Site {
    /// Opens a root and its state, and takes the lock.
    pub(super) fn open(options: &LiveOptions) -> Result<(Self, Lock), TreeError> {
        let root = open_root(options)?;
        let state = StateDir::open(&root, &state_options(options))?;
        let lock = Lock::acquire(&state.dir, LOCK)?;
        let index = Index::open_or_rebuild(&state.path.join(DATABASE))?;
        let policy = RulePolicy::Own { config: options.ignore.clone() };
        // So that an agent whose target this directory lies in leaves it alone.
        let id = index.share_id().to_hex();
        let state_file = |source| TreeError::StateFile { path: state.path.join(SHARE_ID), source };
        if let Some(work) = &state.work {
            durable::sweep(&work.dir, SHARE_ID).map_err(state_file)?;
        }
        if let Some(work) = &state.work
            && small_text(&work.dir, SHARE_ID).is_none_or(|known| known != id)
        {
            durable::write(&work.dir, SHARE_ID, id.as_bytes(), 0o600).map_err(state_file)?;
        }
        // The clock must be the one of the tree's own file system.
        let clock_dir = state.work.as_ref().map_or(&state.dir, |work| &work.dir);
        let fresh = Arc::new(Fresh::default());
        let looker = Looker::new(root.clone(), clock_dir, index.clone(), policy)?
            .keeping(Arc::clone(&options.described))
            .keeping_contents(Arc::clone(&fresh));
        let (cookies, cookies_path) = cookies(&root, &state)
            .map_err(|source| TreeError::StateFile { path: state.path.clone(), source })?;
        let (handles, told) = (Handles::default(), Told::default());
        Ok((Self { root, state, index, looker, cookies, cookies_path, handles, fresh, told }, lock))
    }

    /// Forgets what was kept for those who would ask for it next and did not, and says when to ask again, if anything is left.
    pub(super) fn forget_old(&self, now: Instant) -> Option<Instant> {
        [self.fresh.forget_old(now), self.told.forget_old(now)].into_iter().flatten().min()
    }

    /// Forgets all of it: nobody will see to that any more.
    pub(super) fn forget_all(&self) {
        self.fresh.clear();
        self.told.close();
    }

    /// The held root, unless its path names something else now; then what to tell people.
    pub(super) fn check_root(&self) -> Result<(), String> {
        let path = self.root.path().display();
        match self.root.path_identity() {
            Ok(identity) if identity == self.root.identity() => Ok(()),
            Ok(_) => Err(format!("{path} is another directory than before")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("{path} is gone")),
            Err(error) => Err(format!("{path} cannot be looked at: {error}")),
        }
    }
}

pub(super) fn open_root(options: &LiveOptions) -> Result<Root, TreeError> {
    Root::open(&options.root).map_err(|source| TreeError::Root { path: options.root.clone(), source })
}

pub(super) fn state_options(options: &LiveOptions) -> StateOptions {
    StateOptions {
        state_dir: options.state_dir.clone(),
        state_home: state_home(|name| std::env::var_os(name)),
    }
}

/// The directory for cookies, without those of an earlier run. In the tree if possible: what is watched there comes in
/// the order in which it happened.
fn cookies(root: &Root, state: &StateDir) -> io::Result<(Dir, PathBuf)> {
    let (dir, path) = match &state.work {
        Some(work) => (work.cookies.clone(), in_tree(root.path())),
        None => match state.dir.make_dir(COOKIES, 0o700) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => (state.dir.open_dir(COOKIES)?, state.path.join(COOKIES)),
        },
    };
    for left_over in dir.list()? {
        if let Ok(name) = std::str::from_utf8(&left_over.name) {
            dir.remove_file(name)?;
        }
    }
    Ok((dir, path))
}

fn in_tree(root: &Path) -> PathBuf {
    root.join(sync_core::name::STATE_DIR).join(COOKIES)
}
