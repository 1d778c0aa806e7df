//! A tree that is kept up with: scanned, watched, looked at again where something happened, and halted where it looks
//! like a disaster.
//!
//! One thread for each tree runs the loop in `worker`; everything it is told comes through `inbox`, everything it has to
//! say goes out through [`LiveTree::status`]. Invariants:
//! * Only the loop looks, so there is one writer to the index.
//! * [`TreeState::Ready`] is not said before the first look at everything after the start is committed.
//! * Nothing is looked at, and so nothing is published, while the root's path names another directory than the one held.
//! * A barrier is passed only when everything that was written before it is committed: its cookie's event came through
//!   the same watcher, and what had come before was looked at. Where there are no events, everything was looked at.
//! * If the loop panics, the tree is halted with the message. It is never silently stale.

use std::{
    io, mem,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sync_core::{Hint, Problem, RuleSet, TreePath, Watching};
use tokio::sync::{broadcast, oneshot, watch};

use crate::{
    described::Described,
    index::{Head, Index, IndexError},
    lock::LockError,
    look::{ChangeNote, LookError},
    rules::{BadLine, Rules, bounded, too_much},
    state::{Reason, StateError},
    watch::{WatcherFactory, start_system_watcher},
};

mod barrier;
mod degraded;
mod halt;
mod inbox;
mod looking;
mod pace;
mod site;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
pub(crate) mod tests;
mod watching;
mod worker;

use inbox::Inbox;
pub(crate) use site::Site;
use worker::Worker;

/// How to keep up with a tree.
#[derive(Debug, Clone)]
pub struct LiveOptions {
    /// The directory. A symlink is resolved at the start.
    pub root: PathBuf,
    /// Where the state goes, if not into the tree.
    pub state_dir: Option<PathBuf>,
    /// Configured ignore patterns.
    pub ignore: Vec<String>,
    /// Nothing is watched; everything is looked at every few seconds instead.
    pub force_poll: bool,
    /// How often everything is looked at, whatever the events say.
    pub rescan: Duration,
    /// How long deletions are remembered for those who were away.
    pub tombstone_retention: Duration,
    /// Where the parts of large files are kept.
    pub described: Arc<Described>,
}

impl LiveOptions {
    /// The usual way for a directory.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            state_dir: None,
            ignore: Vec::new(),
            force_poll: false,
            rescan: Duration::from_secs(60 * 60),
            tombstone_retention: Duration::from_secs(90 * 24 * 60 * 60),
            described: Arc::default(),
        }
    }
}

/// What a tree is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeState {
    /// The first look at everything is not complete.
    Scanning,
    /// Everything is known and watched.
    Ready,
    /// Everything is known, but changes may be seen later than usual: some of it can only be polled, or events were lost. More is
    /// in [`TreeStatus::watching`].
    Degraded {
        /// Why.
        reason: String,
    },
    /// It looks like a disaster. Nothing is published until that is over or a person accepts it.
    Halted {
        /// Why.
        reason: String,
    },
}

/// How a tree stands. Sent after each commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeStatus {
    /// What it is doing.
    pub state: TreeState,
    /// How well it hears of changes.
    pub watching: Watching,
    /// The newest commit point.
    pub head: Head,
    /// Grows when the list of unreadable paths changes.
    pub problems_version: u64,
    /// Grows when the ignore rules change.
    pub rules_version: u64,
}

/// Why a tree could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The directory is not there or cannot be read.
    #[error("Cannot open the directory {}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Something in the state directory cannot be made.
    #[error("Cannot use the state directory {}", path.display())]
    StateFile {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process serves the directory.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The index cannot be used.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Looking cannot begin.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The system gives no thread.
    #[error("Cannot start a thread")]
    Thread {
        /// What the system says.
        source: io::Error,
    },
}

impl Hint for TreeError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Root { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("create it or mount its disk, or correct the path")
            }
            Self::Root { .. } => Some("check that it is a directory and may be read"),
            Self::StateFile { .. } => Some("check its permissions and the space on its disk"),
            Self::State(error) => error.hint(),
            Self::Locked(error) => error.hint(),
            Self::Index(error) => error.hint(),
            Self::Look(error) => error.hint(),
            Self::Thread { .. } => Some("check the limit of processes (ulimit -u)"),
        }
    }
}

/// Why a barrier was not passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// The tree is halted.
    #[error("The share is halted: {reason}")]
    Halted {
        /// Why.
        reason: String,
    },
    /// The tree was stopped.
    #[error("The share is being closed")]
    Stopped,
}

/// Batches of changes that a slow console may lag behind by before it misses some.
const CONSOLE_BATCHES: usize = 64;

/// How long stopping waits for a look to end.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// A tree that is kept up with. Dropping it stops it.
#[derive(Debug)]
pub struct LiveTree {
    shared: Arc<Shared>,
    root: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the loop and its callers share.
#[derive(Debug)]
struct Shared {
    inbox: Inbox,
    stop: AtomicBool,
    status: watch::Sender<TreeStatus>,
    changes: broadcast::Sender<Arc<Vec<ChangeNote>>>,
    /// Replaced as a whole when another root is accepted.
    site: RwLock<Arc<Site>>,
}

impl Shared {
    fn site(&self) -> Arc<Site> {
        Arc::clone(&self.site.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace_site(&self, site: Site) {
        let mut place = self.site.write().unwrap_or_else(PoisonError::into_inner);
        let former = mem::replace(&mut *place, Arc::new(site));
        drop(place);
        // Somebody may hold it for long.
        former.forget_all();
    }
}

impl LiveTree {
    /// Opens a tree and starts to keep up with it. Returns at once; the first scan goes on in the background.
    ///
    /// # Errors
    /// The directory or its state cannot be used, or another process serves it.
    pub fn start(options: LiveOptions) -> Result<Arc<Self>, TreeError> {
        Self::start_with(options, Box::new(start_system_watcher))
    }

    pub(crate) fn start_with(options: LiveOptions, factory: WatcherFactory) -> Result<Arc<Self>, TreeError> {
        let (site, lock) = Site::open(&options)?;
        let status = TreeStatus {
            state: TreeState::Scanning,
            watching: Watching::default(),
            head: site.index.head()?,
            problems_version: 0,
            rules_version: 0,
        };
        let root = site.root.path().to_path_buf();
        let shared = Arc::new(Shared {
            inbox: Inbox::default(),
            stop: AtomicBool::new(false),
            status: watch::Sender::new(status),
            changes: broadcast::Sender::new(CONSOLE_BATCHES),
            site: RwLock::new(Arc::new(site)),
        });
        let worker = Worker::new(Arc::clone(&shared), options, factory, lock);
        let thread = std::thread::Builder::new()
            .name("tree".to_owned())
            .spawn(move || worker.run())
            .map_err(|source| TreeError::Thread { source })?;
        Ok(Arc::new(Self { shared, root, thread: Mutex::new(Some(thread)) }))
    }

    /// Tells a halted tree that what is on the disk now is right, whether it is running (in any process) or will be
    /// started later. Answers the file that says so.
    ///
    /// # Errors
    /// The directory is not there, or its state cannot be written.
    pub fn accept(options: &LiveOptions) -> Result<PathBuf, TreeError> {
        halt::write_accept(options)
    }

    /// How the tree stands. Changes after each commit.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<TreeStatus> {
        self.shared.status.subscribe()
    }

    /// The changes that looks find after the first one, for people. Some may be left out.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<Vec<ChangeNote>>> {
        self.shared.changes.subscribe()
    }

    /// Waits until everything that was written before the call is in the index. Waits for the first scan too. May be
    /// dropped midway.
    ///
    /// # Errors
    /// The tree is halted or stopped.
    pub async fn barrier(&self) -> Result<(), BarrierError> {
        let (waiter, passed) = oneshot::channel();
        self.shared.inbox.ring(|mail| match &mail.closed {
            // Nobody is left who could answer; the receiver below gets this.
            Some(error) => drop(waiter.send(Err(error.clone()))),
            None => mail.waiters.push(waiter),
        });
        passed.await.unwrap_or(Err(BarrierError::Stopped))
    }

    /// The tree's index. Another one after another root was accepted, so it is not to be kept for long.
    #[must_use]
    pub fn index(&self) -> Index {
        self.shared.site().index.clone()
    }

    /// The directory, with symlinks resolved.
    #[must_use]
    pub fn root_path(&self) -> &Path {
        &self.root
    }

    /// Where the state is and why, if it is not in the tree.
    #[must_use]
    pub fn state_note(&self) -> Option<String> {
        let site = self.shared.site();
        (site.state.reason != Reason::InTree)
            .then(|| format!("the state is kept in {}: {}", site.state.path.display(), site.state.reason))
    }

    /// The paths that cannot be read at present, and the ignore rules that are too much.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        or_default(problems(&self.index()))
    }

    /// The ignore rules at present, as far as they count.
    #[must_use]
    pub fn rule_set(&self) -> RuleSet {
        bounded(&or_default(self.index().rule_set()))
    }

    /// The ignore patterns at present that are not understood. Compiles all of them.
    #[must_use]
    pub fn bad_rules(&self) -> Vec<BadLine> {
        Rules::compile(&or_default(self.index().rule_set())).bad_lines().to_vec()
    }

    /// Ends the loop and waits for it, but for no longer than two seconds: a look ends at the next file, and reading one
    /// may take longer. Further calls do nothing. Blocks.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.inbox.ring(|mail| mail.stop = true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        if self.shared.inbox.wait_closed(Instant::now() + STOP_PATIENCE) {
            // The loop catches its own panics, so there is nothing to learn from the result.
            drop(thread.join());
        } else {
            // Nothing is committed after this: the look was told, and a killed process would leave the same.
            tracing::debug!("a look is still reading a file; it ends by itself");
        }
    }

    pub(crate) fn site(&self) -> Arc<Site> {
        self.shared.site()
    }

    /// Has somebody see to it that what is kept for a moment is forgotten.
    pub(crate) fn remind(&self) {
        self.shared.inbox.ring(|_| ());
    }

    /// Where to say that something on the disk is not what the index says.
    pub(crate) fn suspects(&self) -> Suspects {
        Suspects(Arc::clone(&self.shared))
    }
}

/// Takes places that were found to differ from the index, and has them looked at.
#[derive(Debug, Clone)]
pub(crate) struct Suspects(Arc<Shared>);

impl Suspects {
    pub(crate) fn add(&self, path: TreePath) {
        self.0.inbox.put(|mail| mail.mark(path, false));
    }
}

impl Drop for LiveTree {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the feed of a tree tells of as problems.
pub(crate) fn problems(index: &Index) -> Result<Vec<Problem>, IndexError> {
    // The few that concern rules come first: only so many problems fit a message.
    let mut problems = too_much(&index.rule_set()?);
    problems.extend(index.problems()?);
    Ok(problems)
}

/// What is shown to people may be missing while the database is in trouble: the loop halts for that anyway.
fn or_default<T: Default>(read: Result<T, IndexError>) -> T {
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, "the index cannot be read");
        T::default()
    })
}
