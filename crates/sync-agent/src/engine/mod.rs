//! The sync cycle of one target: scan, plan, stage, apply, record.
//!
//! Reading order: this file (what a run is), `store` (what is known), `phases` and `transfer` (how a plan is carried out),
//! `record` (how that becomes known). Deciding is not here but in `sync_core::plan`.
//!
//! Invariants:
//! * A run acts only on a remote tree whose digest is the daemon's, and says "equal" only after comparing the digest of the
//!   target as it is on the disk with it.
//! * What is pending stays so until it is recorded as done. Errors, kills and cut connections only make a run shorter.
//! * Nothing is planned twice in one run without looking again at what was in the way.

mod context;
mod cycle;
mod outcome;
mod phases;
mod record;
pub mod reporter;
mod status;
mod store;
mod transfer;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sync_core::{Cursor, Digest, Halt, Hint, Problem, ShareId};
use sync_locations::LocationError;
use sync_tree::{
    apply::{Applier, ApplyError, ApplyOptions, Durability, Recovered},
    durable,
    index::{Index, IndexError},
    lock::{Lock, LockError},
    look::{LookError, Looker, RulePolicy, SHARE_ID, TARGET_OF, small_text},
    rooted::{Dir, Root},
    state::{StateDir, StateError},
};

pub use reporter::{AppliedOp, Phase, Reporter, Silent};
pub use status::{StatusReport, status};

use context::Context;
use store::Store;

/// The lock of a target, and its database.
const LOCK: &str = "agent";
const DATABASE: &str = "target.db";

/// What an engine works on and how.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The directory to keep equal. It is made if its parent exists.
    pub target: PathBuf,
    /// Where its state goes, if not into the target.
    pub state_dir: Option<PathBuf>,
    /// The share's name.
    pub share: String,
    /// The share's id, as the server says it.
    pub share_id: ShareId,
    /// When what was written is flushed.
    pub durability: Durability,
    /// How many large files are fetched at once.
    pub concurrency: usize,
    /// A person allowed a mass deletion for this run.
    pub allow_mass_delete: bool,
    /// How long the trash keeps what was put aside.
    pub trash_keep: Duration,
    /// How often a following engine looks at the whole target.
    pub rescan: Duration,
}

/// How a pull differs from the usual.
#[derive(Debug, Clone, Copy, Default)]
pub struct PullMode {
    /// Every file is transferred again.
    pub full: bool,
    /// Nothing is changed; the counts are those that a pull would have.
    pub dry_run: bool,
}

/// What came of a run. Counts are of files and links.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// All files of the share: changed and unchanged.
    pub checked: u64,
    /// Synced and failed.
    pub changed: u64,
    /// Brought into place, moved ones included.
    pub synced: u64,
    /// Could not be.
    pub failed: u64,
    /// Were as they should be.
    pub unchanged: u64,
    /// Are of a kind that is not carried.
    pub skipped: u64,
    /// Removed from the target.
    pub deleted: u64,
    /// Moved on the target instead of transferred.
    pub renamed: u64,
    /// Message bytes that came over the wire.
    pub bytes_received: u64,
    /// The sizes of the changed files.
    pub bytes_total: u64,
    /// Where the feed goes on.
    pub cursor: Option<Cursor>,
    /// The digest of the share's tree.
    pub root_digest: Option<Digest>,
    /// Paths that failed.
    pub problems: Vec<Problem>,
    /// The digests of share and target were compared and are the same.
    pub equal: bool,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It looks like a disaster.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// The server.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Another agent has the target.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The target's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The target itself.
    #[error("Cannot use the target {}: cannot {action}", path.display())]
    Target {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A change of the target that makes going on senseless, such as a full disk.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The target's index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Looking at the target.
    #[error(transparent)]
    Look(#[from] LookError),
    /// Somebody asked to stop.
    #[error("Stopped before it was done; what is in place stays, and the next pull goes on from here")]
    Cancelled,
    /// The daemon's tree and its digest do not fit together, twice in a row.
    #[error("The share's tree does not have the digest that the server says it has")]
    Digest,
    /// Something that cannot happen.
    #[error("Something is wrong in sync-agent itself: {reason}")]
    Broken {
        /// What.
        reason: String,
    },
}

impl EngineError {
    fn target(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Target { path: path.to_owned(), action, source }
    }
}

impl Hint for EngineError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Halt(error) => error.hint(),
            Self::Location(error) => error.hint(),
            Self::Lock(error) => error.hint(),
            Self::State(error) => error.hint(),
            Self::Apply(error) => error.hint(),
            Self::Index(error) => error.hint(),
            Self::Look(error) => error.hint(),
            Self::Target { .. } => {
                Some("its parent directory must exist, and this user must be allowed to write it")
            }
            Self::Digest => Some("restart the daemon; if it stays so, please report it"),
            Self::Cancelled | Self::Broken { .. } => None,
        }
    }
}

/// Keeps one target equal to one share. Holds the target's lock for as long as it lives.
pub struct Engine {
    options: EngineOptions,
    context: Arc<Context>,
    /// The state directory on the target's own file system, for the clock.
    work: Dir,
    looker: Option<Arc<Looker>>,
    /// Problems of single paths that the last runs could not solve.
    failing: Mutex<BTreeMap<sync_core::TreePath, Problem>>,
    first_look_done: bool,
    /// The last run was cut off, and what it did without recording it is not adopted yet.
    cut_off: bool,
    _lock: Lock,
}

impl Engine {
    /// Opens the target, takes its lock and settles what an earlier run left.
    ///
    /// # Errors
    /// It cannot be used, another agent has it, or it is another share's.
    pub fn open(options: EngineOptions) -> Result<Self, EngineError> {
        let root = open_root(&options.target)?;
        let state = StateDir::open(&root, &status::state_options(options.state_dir.as_deref()))?;
        let Some(work) = state.work.clone() else {
            let source = io::Error::from(io::ErrorKind::PermissionDenied);
            return Err(EngineError::target(&options.target, "make .syncd in it", source));
        };
        let lock = Lock::acquire(&state.dir, LOCK)?;
        let store = Store::open(Index::open_or_rebuild(&state.path.join(DATABASE))?)?;
        check_share(&store, &options.share)?;
        let id = options.share_id.to_hex();
        if small_text(&work.dir, SHARE_ID).is_some_and(|share| share == id) {
            let source = io::Error::other("it is the share itself");
            return Err(EngineError::target(&options.target, "make a share its own target", source));
        }
        durable::sweep(&work.dir, TARGET_OF)
            .map_err(|source| EngineError::target(&options.target, "clean up in .syncd", source))?;
        if small_text(&work.dir, TARGET_OF).is_none_or(|share| share != id) {
            durable::write(&work.dir, TARGET_OF, id.as_bytes(), 0o600)
                .map_err(|source| EngineError::target(&options.target, "write into .syncd", source))?;
        }
        let applier = Applier::open(root.clone(), &work, apply_options(&options)?)?;
        for recovered in applier.recover()? {
            match recovered {
                Recovered::PutBack { path } => {
                    tracing::warn!(%path, "was being moved when an earlier run ended; it is back");
                }
                Recovered::Trashed { path } => {
                    tracing::warn!(%path, "was being moved when an earlier run ended; it is in .syncd/trash");
                }
            }
        }
        let cut_off = store.begin_run()?;
        let context = Context {
            root,
            applier,
            store,
            durability: options.durability,
            concurrency: options.concurrency,
            opened: Mutex::default(),
        };
        Ok(Self {
            options,
            context: Arc::new(context),
            work: work.dir,
            looker: None,
            failing: Mutex::default(),
            first_look_done: false,
            cut_off,
            _lock: lock,
        })
    }

    fn store(&self) -> &Store {
        &self.context.store
    }

    /// The looker for the rules that are known now.
    fn looker(&mut self) -> Result<Arc<Looker>, EngineError> {
        if let Some(looker) = &self.looker {
            return Ok(looker.clone());
        }
        let rules = RulePolicy::Given(self.store().index().rule_set()?);
        let index = self.store().index().clone();
        let looker = Arc::new(Looker::new(self.context.root.clone(), &self.work, index, rules)?);
        self.looker = Some(looker.clone());
        Ok(looker)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.cut_off
            && let Err(error) = self.store().end_run()
        {
            tracing::debug!(%error, "the next run will look for what this one did");
        }
        self.context.applier.clean_run();
    }
}

#[expect(clippy::disallowed_methods, reason = "the target is named by the person who runs the agent")]
fn open_root(target: &Path) -> Result<Root, EngineError> {
    match std::fs::create_dir(target) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(EngineError::target(target, "make it", source)),
    }
    Root::open(target).map_err(|source| EngineError::target(target, "open it", source))
}

fn check_share(store: &Store, name: &str) -> Result<(), EngineError> {
    match store.share()? {
        Some((recorded, _)) if recorded != name => {
            Err(Halt::OtherShare { recorded, asked: name.to_owned() }.into())
        }
        Some(_) => Ok(()),
        None => Ok(store.set_share_name(name)?),
    }
}

fn apply_options(options: &EngineOptions) -> Result<ApplyOptions, EngineError> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| EngineError::Broken { reason: error.to_string() })?;
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // Without colons, which not every file system takes.
    let time = sync_cli::show::now().replace(['-', ':'], "");
    Ok(ApplyOptions {
        durability: options.durability,
        trash_run: format!("{time}-{random}"),
        trash_keep: options.trash_keep,
    })
}

fn now_secs() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}
