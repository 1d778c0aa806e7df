//! One look after another at a real directory, without watching it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use sync_core::{Digest, NodeId, TreePath};

use super::*;

mod cut;
mod moved;
mod problems;
mod rules;
mod sheets;
mod unreadable;

/// A tree with an index, looked at only when told to.
struct Scene {
    _tmp: tempfile::TempDir,
    root: PathBuf,
    looker: Looker,
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

impl Scene {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().canonicalize().unwrap().join("share");
        let state = root.join(sync_core::name::STATE_DIR);
        fs::create_dir_all(&state).unwrap();
        let looker = Self::looker(&root, &state);
        Self { _tmp: tmp, root, looker }
    }

    fn looker(root: &Path, state: &Path) -> Looker {
        let index = Index::open(&state.join("share.db")).unwrap();
        let policy = RulePolicy::Own { config: Vec::new() };
        let state = Root::open(state).unwrap().dir();
        Looker::new(Root::open(root).unwrap(), &state, index, policy).unwrap()
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.root.join(from), self.root.join(to)).unwrap();
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn look(&self, scope: &Scope) -> LookReport {
        self.looker.look(scope, &NoObserver, &LookLimits::default()).unwrap()
    }

    fn look_at_all(&self) -> LookReport {
        self.look(&Scope::Everything)
    }

    fn find(&self, place: &str) -> Option<IndexedNode> {
        self.looker.index().find(&path(place)).unwrap()
    }

    fn id(&self, place: &str) -> Option<NodeId> {
        self.find(place).map(|found| found.node.id)
    }

    /// The places that are unknown, as the feed tells them.
    fn unknown(&self) -> Vec<String> {
        let problems = self.looker.index().problems().unwrap();
        let unknown = problems.into_iter().filter(|problem| problem.unknown);
        unknown.map(|problem| problem.path.as_str().to_owned()).collect()
    }
}

#[test]
fn the_parts_of_the_next_version_are_found_if_those_of_the_last_are_kept() {
    let mut scene = Scene::new();
    let described = Arc::new(Described::default());
    let state = scene.root.join(sync_core::name::STATE_DIR);
    scene.looker = Scene::looker(&scene.root, &state).keeping(described.clone());
    let mut bytes: Vec<u8> =
        (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (turn, asked) in [false, true, false, false].into_iter().enumerate() {
        bytes.insert(turn * 500_000, 1);
        fs::write(scene.root.join("f"), &bytes).unwrap();
        scene.look_at_all();
        let parts = crate::chunks::Parts::of(&bytes);
        let found = described.get(&Digest::of(&bytes));
        assert_eq!(found.as_ref(), (turn > 1).then_some(&parts), "turn {turn}");
        if asked {
            described.put(Digest::of(&bytes), parts);
        }
    }
}

#[test]
fn what_is_new_in_a_directory_gets_neighbouring_ids_in_the_order_of_the_names() {
    let scene = Scene::new();
    let names: Vec<String> = (0..7000).map(|number| format!("{:04}", number * 37 % 7000)).collect();
    for (name, dir) in names.iter().zip(["few", "many", "many", "many", "many"].iter().cycle()) {
        scene.write(&format!("{dir}/{name}"), name);
    }
    scene.look_at_all();
    for dir in ["few", "many"] {
        let mut inside = scene.looker.index().children(scene.id(dir).unwrap()).unwrap();
        inside.sort_by(|a, b| a.node.name.cmp(&b.node.name));
        let neighbours = inside.windows(2).filter(|pair| pair[0].node.id.0 + 1 == pair[1].node.id.0).count();
        // Also where parts of a large directory are looked at by several threads.
        assert_eq!(neighbours + 1, inside.len(), "in {dir}");
    }
    // What was known keeps its id.
    let known = scene.id("few/0000").unwrap();
    scene.write("few/00000", "new");
    scene.look_at_all();
    assert_eq!(scene.id("few/0000"), Some(known));
    assert!(scene.id("few/00000").unwrap() > known);
}

#[test]
fn what_never_becomes_a_node_takes_no_numbers() {
    let scene = Scene::new();
    scene.write(".syncignore", "*.o\n");
    scene.write("kept", "x");
    for number in 0..100 {
        scene.write(&format!("d/{number}.o"), "ignored");
    }
    scene.look_at_all();
    scene.look_at_all();
    let before = scene.looker.index().head().unwrap();
    scene.look_at_all();
    assert_eq!(scene.look_at_all().head, before);
}
