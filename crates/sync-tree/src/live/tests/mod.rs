//! Real directories, real events.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sync_core::{Entry, NodeId, TreePath};

use super::{BarrierError, LiveOptions, LiveTree, TreeState};
use crate::{
    index::{Head, Index},
    look::{LookLimits, Looker, NoObserver, RulePolicy, Scope},
    rooted::Root,
    watch::{WatchEvent, WatcherFactory, fake::Meddler, start_system_watcher},
};

mod halting;
mod mounting;
mod polling;
mod random;
mod watching;

/// Far longer than anything takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A live tree in a directory of its own.
pub(crate) struct Scene {
    _tmp: tempfile::TempDir,
    pub(crate) root: PathBuf,
    pub(crate) tree: Arc<LiveTree>,
}

impl Scene {
    pub(crate) fn start() -> Self {
        Self::prepared(|_| {}, |_| {}, Box::new(start_system_watcher))
    }

    pub(crate) fn meddled(meddler: &Meddler, prepare: impl FnOnce(&Path)) -> Self {
        Self::prepared(prepare, |_| {}, meddler.factory())
    }

    fn prepared(
        prepare: impl FnOnce(&Path),
        configure: impl FnOnce(&mut LiveOptions),
        factory: WatcherFactory,
    ) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().canonicalize().unwrap().join("share");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let mut options = LiveOptions::new(root.clone());
        configure(&mut options);
        let tree = LiveTree::start_with(options, factory).unwrap();
        let scene = Self { _tmp: tmp, root, tree };
        scene.until("the first scan", || scene.state() != TreeState::Scanning);
        scene
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn state(&self) -> TreeState {
        self.tree.status().borrow().state.clone()
    }

    fn halt_reason(&self) -> Option<String> {
        match self.state() {
            TreeState::Halted { reason } => Some(reason),
            _ => None,
        }
    }

    pub(crate) fn head(&self) -> Head {
        self.tree.index().head().unwrap()
    }

    pub(crate) fn barrier(&self) -> Result<(), BarrierError> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(self.tree.barrier())
    }

    pub(crate) fn id(&self, path: &str) -> Option<NodeId> {
        let found = self.tree.index().find(&TreePath::new(path).unwrap()).unwrap();
        found.map(|found| found.node.id)
    }

    fn size(&self, path: &str) -> Option<u64> {
        let found = self.tree.index().find(&TreePath::new(path).unwrap()).unwrap();
        found.map(|found| found.node.entry.content.size())
    }

    pub(crate) fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        eventually(&format!("{what} (state {:?})", self.state()), condition);
    }
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Everything in an index, by path; `None` if it changed meanwhile.
fn listing(index: &Index) -> Option<BTreeMap<TreePath, Entry>> {
    let mut all = BTreeMap::new();
    let mut after = NodeId::ROOT;
    loop {
        let page = index.tree_page(after, 1000).unwrap();
        let Some(last) = page.last() else { return Some(all) };
        after = last.id;
        for node in page {
            all.insert(index.path_of(node.id).unwrap()?, node.entry);
        }
    }
}

/// What an index made anew from the disk holds.
fn rebuilt(root: &Path) -> (Head, BTreeMap<TreePath, Entry>) {
    let tmp = tempfile::tempdir().unwrap();
    let state = Root::open(tmp.path()).unwrap().dir();
    let index = Index::open(&tmp.path().join("fresh.db")).unwrap();
    let policy = RulePolicy::Own { config: Vec::new() };
    let looker = Looker::new(Root::open(root).unwrap(), &state, index.clone(), policy).unwrap();
    looker.look(&Scope::Everything, &NoObserver, &LookLimits::default()).unwrap();
    (index.head().unwrap(), listing(&index).unwrap())
}

/// The paths where two trees differ, for people.
fn differences(kept: &BTreeMap<TreePath, Entry>, want: &BTreeMap<TreePath, Entry>) -> String {
    let paths: BTreeSet<&TreePath> = kept.keys().chain(want.keys()).collect();
    let differ = paths.into_iter().filter(|path| kept.get(path) != want.get(path));
    differ.map(|path| format!("{path}: kept {:?}, on disk {:?}\n", kept.get(path), want.get(path))).collect()
}

/// Asserts that the index kept up by events is what one made anew would be.
fn assert_kept_up(scene: &Scene) {
    let (fresh, want) = rebuilt(&scene.root);
    let kept = scene.head();
    assert_eq!(differences(&listing(&scene.tree.index()).unwrap(), &want), "");
    assert_eq!((kept.root_digest, kept.files, kept.bytes), (fresh.root_digest, fresh.files, fresh.bytes));
}
