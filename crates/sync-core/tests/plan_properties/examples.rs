//! Cases that are written out: the guards, moves, and what a plan searches by.

use std::{cell::Cell, slice};

use sync_core::{
    Content, Digest, Entry, Halt, Name, Node, NodeId, TreePath,
    plan::{Base, Clear, Guard, Keep, Plan, Policy, Put, Scope, Source, Trees, gather, plan},
};

use crate::model::{Model, Tree, file, node, numbered, paths, run};

#[test]
fn guards_truth_table() {
    let mass = |deletions, files| Err(Halt::MassDelete { deletions, files });
    let guard =
        |files_then, deleted_since| Guard { allow: false, first_run: false, files_then, deleted_since };
    for (files, guard, want) in [
        (100, guard(100, 0), Ok(())), // all of them, but only a hundred
        (101, guard(101, 0), mass(101, 101)),
        (101, guard(202, 0), Ok(())), // exactly half
        (101, guard(201, 0), mass(101, 201)),
        (50, guard(150, 60), mass(110, 150)), // little by little
        (0, guard(150, 149), Ok(())),         // nothing more to delete
        (101, Guard { allow: true, ..guard(101, 0) }, Ok(())),
    ] {
        let Ok(slots) = gather(&numbered(files, true), &Scope::Everything);
        assert_eq!(plan(slots, Policy::LeftWins, &guard).map(drop), want, "{files} {guard:?}");
    }
    for (files, allow, want) in
        [(10, false, Ok(())), (11, false, Err(Halt::ForeignTarget { count: 11 })), (11, true, Ok(()))]
    {
        let guard = Guard { allow, first_run: true, files_then: files, deleted_since: 0 };
        let Ok(slots) = gather(&numbered(files, false), &Scope::Everything);
        assert_eq!(plan(slots, Policy::LeftWins, &guard).map(drop), want, "{files} {allow}");
    }
}

/// A target that is equal to its share, with these files at the top, and a plan after `change` of the share.
fn after_change(entries: &[Entry], change: impl FnOnce(&mut Tree)) -> Plan {
    let mut model = Model::of(Tree::new());
    for (id, entry) in (1..).zip(entries) {
        let name = Name::new(&format!("old {id}")).unwrap();
        let remote = Node { id: NodeId(id), parent: NodeId::ROOT, name, entry: entry.clone() };
        let local = Node { id: NodeId(id + 500_000), ..remote.clone() };
        model.base.insert(id, Base { id: remote.id, local: local.id, entry: entry.clone() });
        model.remote.insert(id, remote);
        model.local.insert(local.id.0, local);
    }
    change(&mut model.remote);
    let made = run(&mut model, &Scope::Everything);
    assert_eq!(paths(&model.local), paths(&model.remote));
    made
}

/// The daemon may have seen a file go and come at different times, and then it is two nodes.
#[test]
fn what_goes_and_comes_the_same_is_one_move() {
    let (a, b) = (file("a", 1), file("a", 2));
    let dir = Entry { content: Content::Directory, ..file("", 1) };
    let link = Entry { content: Content::Symlink { target: b"a".as_slice().into() }, mode: 0, ..file("", 1) };
    let moves = |entries: &[Entry], come: &[Node]| {
        let made = after_change(entries, |remote| {
            remote.clear();
            remote.extend(come.iter().map(|node| (node.id.0, node.clone())));
        });
        let moved = |clear: &&Clear| matches!(clear, Clear::Move { .. } | Clear::TakeOut { .. });
        assert!(made.files.iter().all(|put| !matches!(put, Put::File { source: Source::Fetch, .. })));
        (made.clear.iter().filter(moved).count(), made.deletions(), made.files.len())
    };
    assert_eq!(moves(slice::from_ref(&a), &[node(9, 0, "new", a.clone())]), (1, 0, 0));
    assert_eq!(moves(slice::from_ref(&link), &[node(9, 0, "new", link.clone())]), (1, 0, 0));
    // Into a directory that comes too.
    let below = [node(8, 0, "dir", dir), node(9, 8, "new", a.clone())];
    assert_eq!(moves(slice::from_ref(&a), &below), (1, 0, 0));
    // Each goes once. The third is a copy.
    let three = [node(7, 0, "x", a.clone()), node(8, 0, "y", a.clone()), node(9, 0, "z", a.clone())];
    assert_eq!(moves(&[a.clone(), a.clone()], &three), (2, 0, 1));
    // A rename keeps the time: this is none, and the content is still not fetched.
    assert_eq!(moves(slice::from_ref(&a), &[node(9, 0, "new", b)]), (0, 1, 1));
    // Over what is there, nothing is moved: that file changed, and the other one went.
    let made = after_change(&[a.clone(), file("b", 1)], |remote| {
        remote.remove(&1);
        remote.insert(2, node(2, 0, "old 2", a.clone()));
    });
    assert_eq!((made.deletions(), made.files.len()), (1, 1));
}

#[test]
fn what_somebody_changed_here_is_no_part_of_a_move() {
    let (a, b) = (file("a", 1), file("b", 1));
    let mut model = Model::of(Tree::new());
    // The share has lost "old", which somebody has written over here, and has got what they wrote.
    model.base.insert(1, Base { id: NodeId(1), local: NodeId(500_001), entry: a });
    model.local.insert(500_001, node(500_001, 0, "old", b.clone()));
    model.remote.insert(9, node(9, 0, "new", b.clone()));
    let made = run(&mut model, &Scope::Everything);
    assert_eq!(paths(&model.local), paths(&model.remote));
    assert_eq!((made.deletions(), model.trash), (1, vec![b.content]));
}

/// A model that counts how often something is searched by what is not its number.
struct Searched<'m> {
    model: &'m Model,
    times: Cell<usize>,
}

impl<'m> Searched<'m> {
    fn search(&self) -> &'m Model {
        self.times.set(self.times.get() + 1);
        self.model
    }
}

impl Trees for Searched<'_> {
    type Error = std::convert::Infallible;
    fn remote(&self, id: NodeId) -> Result<Option<Node>, Self::Error> {
        self.model.remote(id)
    }
    fn remote_after(&self, id: NodeId, most: usize) -> Result<Vec<Node>, Self::Error> {
        self.search().remote_after(id, most)
    }
    fn remote_children(&self, id: NodeId) -> Result<Vec<Node>, Self::Error> {
        self.search().remote_children(id)
    }
    fn remote_child(&self, parent: NodeId, name: &Name) -> Result<Option<Node>, Self::Error> {
        self.search().remote_child(parent, name)
    }
    fn local(&self, id: NodeId) -> Result<Option<Node>, Self::Error> {
        self.model.local(id)
    }
    fn local_children(&self, id: NodeId) -> Result<Vec<Node>, Self::Error> {
        self.search().local_children(id)
    }
    fn local_child(&self, parent: NodeId, name: &Name) -> Result<Option<Node>, Self::Error> {
        self.search().local_child(parent, name)
    }
    fn base(&self, id: NodeId) -> Result<Option<Base>, Self::Error> {
        self.model.base(id)
    }
    fn base_of_local(&self, local: NodeId) -> Result<Option<Base>, Self::Error> {
        self.search().base_of_local(local)
    }
    fn local_with(&self, digest: &Digest) -> Result<Option<NodeId>, Self::Error> {
        self.model.local_with(digest)
    }
    fn keep(&self, path: &TreePath, is_dir: bool) -> Option<Keep> {
        self.model.keep(path, is_dir)
    }
}

/// Each search by a name or by a counterpart is two more pages of a database for each file that changed.
#[test]
fn a_file_that_changed_is_found_by_its_number_alone() {
    let mut model = numbered(5, true);
    for id in 1..=5 {
        let mut remote = model.local[&(id + 500_000)].clone();
        remote.id = NodeId(id);
        remote.entry.content = Content::File { size: 1, digest: Digest::of(b"another") };
        model.remote.insert(id, remote);
    }
    let remote = (1..=5).map(NodeId).collect();
    let trees = Searched { model: &model, times: Cell::new(0) };
    let Ok(slots) = gather(&trees, &Scope::Nodes { remote, local: Vec::new() });
    assert_eq!((slots.len(), trees.times.get()), (5, 0));
    // It is the same that a walk finds.
    let Ok(mut walked) = gather(&model, &Scope::Everything);
    walked.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(slots, walked);
}
