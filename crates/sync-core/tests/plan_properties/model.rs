//! The three trees of a target in memory, and what its disk does when a plan is carried out.

use std::collections::{BTreeMap, HashMap, HashSet};

use sync_core::{
    Content, Digest, Entry, Name, Node, NodeId, Time, TreePath,
    plan::{
        Base, Build, Clear, Displaced, Guard, Keep, Over, Plan, Policy, Put, Record, Scope, Source, Trees,
        gather, plan,
    },
};

pub(crate) type Tree = BTreeMap<u64, Node>;

/// The three trees of a target, and what its disk does when a plan is carried out.
#[derive(Clone, Default, Debug)]
pub(crate) struct Model {
    pub(crate) remote: Tree,
    pub(crate) local: Tree,
    pub(crate) base: BTreeMap<u64, Base>,
    pub(crate) next_id: u64,
    staged: HashMap<u64, Content>,
    pub(crate) taken: HashMap<u64, u64>,
    pub(crate) trash: Vec<Content>,
    pub(crate) kept: HashSet<String>,
}

pub(crate) fn child<'a>(tree: &'a Tree, parent: u64, name: &str) -> Option<&'a Node> {
    tree.values().find(|node| node.parent.0 == parent && node.name.as_str() == name)
}

pub(crate) fn children(tree: &Tree, parent: u64) -> Vec<Node> {
    tree.values().filter(|node| node.parent.0 == parent).cloned().collect()
}

pub(crate) fn find(tree: &Tree, path: &TreePath) -> Option<u64> {
    path.names().try_fold(0, |at, name| child(tree, at, name).map(|node| node.id.0))
}

pub(crate) fn paths(tree: &Tree) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let mut stack = vec![(0, TreePath::root())];
    while let Some((id, path)) = stack.pop() {
        for node in children(tree, id) {
            let path = path.join(&node.name);
            found.insert(path.as_str().to_owned(), node.entry.clone());
            stack.push((node.id.0, path));
        }
    }
    found
}

impl Trees for Model {
    type Error = std::convert::Infallible;
    fn remote(&self, id: NodeId) -> Result<Option<Node>, Self::Error> {
        Ok(self.remote.get(&id.0).cloned())
    }
    fn remote_after(&self, id: NodeId, most: usize) -> Result<Vec<Node>, Self::Error> {
        let mut after: Vec<Node> = self.remote.values().filter(|node| node.id > id).cloned().collect();
        after.sort_by_key(|node| node.id);
        after.truncate(most);
        Ok(after)
    }
    fn remote_children(&self, id: NodeId) -> Result<Vec<Node>, Self::Error> {
        Ok(children(&self.remote, id.0))
    }
    fn remote_child(&self, parent: NodeId, name: &Name) -> Result<Option<Node>, Self::Error> {
        Ok(child(&self.remote, parent.0, name).cloned())
    }
    fn local(&self, id: NodeId) -> Result<Option<Node>, Self::Error> {
        Ok(self.local.get(&id.0).cloned())
    }
    fn local_children(&self, id: NodeId) -> Result<Vec<Node>, Self::Error> {
        Ok(children(&self.local, id.0))
    }
    fn local_child(&self, parent: NodeId, name: &Name) -> Result<Option<Node>, Self::Error> {
        Ok(child(&self.local, parent.0, name).cloned())
    }
    fn base(&self, id: NodeId) -> Result<Option<Base>, Self::Error> {
        Ok(self.base.get(&id.0).cloned())
    }
    fn base_of_local(&self, local: NodeId) -> Result<Option<Base>, Self::Error> {
        Ok(self.base.values().find(|base| base.local == local).cloned())
    }
    fn local_with(&self, digest: &Digest) -> Result<Option<NodeId>, Self::Error> {
        let has =
            |node: &&Node| matches!(&node.entry.content, Content::File { digest: d, .. } if d == digest);
        Ok(self.local.values().find(has).map(|node| node.id))
    }
    fn keep(&self, path: &TreePath, _is_dir: bool) -> Option<Keep> {
        let protects = |kept: &String| {
            let kept = TreePath::new(kept).unwrap();
            path.is_within(&kept) || kept.is_within(path)
        };
        self.kept.iter().any(protects).then_some(Keep::Unknown)
    }
}

impl Model {
    /// A share, and a side that is blank.
    pub(crate) fn of(remote: Tree) -> Self {
        Self { remote, next_id: 1_000_000, ..Self::default() }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn free(&self, path: &TreePath) -> (u64, Name) {
        let (parent, name) = path.split().expect("not the root");
        let parent =
            if parent.is_root() { 0 } else { find(&self.local, &parent).expect("its directory is there") };
        assert!(parent == 0 || self.local[&parent].entry.content.is_dir(), "{path} has a directory");
        assert!(child(&self.local, parent, name).is_none(), "{path} is free");
        (parent, Name::new(name).unwrap())
    }

    fn at(&self, path: &TreePath, want: NodeId) -> u64 {
        let id = find(&self.local, path).unwrap_or_else(|| panic!("{path} is there"));
        assert_eq!(id, want.0, "{path} holds what the plan said");
        id
    }

    fn agree(&mut self, remote: &Node, local: u64) {
        self.base.retain(|_, base| base.local.0 != local);
        self.base
            .insert(remote.id.0, Base { id: remote.id, local: NodeId(local), entry: remote.entry.clone() });
    }

    fn displace(&mut self, content: &Content, displaced: Displaced) {
        if displaced == Displaced::Trash {
            self.trash.push(content.clone());
        }
    }

    fn place(&mut self, path: &TreePath, remote: &Node, over: Option<&Over>) {
        let id = match over {
            Some(over) => {
                let id = self.at(path, over.local.id);
                let old = self.local[&id].entry.content.clone();
                assert!(!old.is_dir(), "only files and links are replaced");
                self.displace(&old, over.displaced);
                id
            }
            None => {
                let (parent, name) = self.free(path);
                let id = self.new_id();
                let node = Node { id: NodeId(id), parent: NodeId(parent), name, entry: remote.entry.clone() };
                self.local.insert(id, node);
                id
            }
        };
        self.local.get_mut(&id).unwrap().entry = remote.entry.clone();
        self.agree(remote, id);
    }

    fn read_copy(&self, path: &TreePath, local: NodeId, want: &Content) -> Content {
        let id = self.at(path, local);
        let content = self.local[&id].entry.content.clone();
        assert_eq!(&content, want, "a copy has the wanted content");
        content
    }

    fn relocate(&mut self, id: u64, to: &TreePath, remote: &Node) {
        let (parent, name) = self.free(to);
        let node = self.local.get_mut(&id).unwrap();
        node.parent = NodeId(parent);
        node.name = name;
        self.agree(remote, id);
    }

    pub(crate) fn carry_out(&mut self, plan: &Plan) {
        for capture in &plan.captures {
            let want = self.remote[&capture.id.0].entry.content.clone();
            let content = self.read_copy(&capture.from.path, capture.from.local, &want);
            self.staged.insert(capture.id.0, content);
        }
        for clear in &plan.clear {
            self.clear(clear);
        }
        for build in &plan.build {
            match build {
                Build::MakeDir { path, remote } => self.place(path, remote, None),
                Build::PutIn { path, remote, .. } => {
                    let id = self.taken.remove(&remote.id.0).expect("it was taken out");
                    self.relocate(id, path, remote);
                }
            }
        }
        for put in &plan.files {
            self.put(put);
        }
        for finish in &plan.finish {
            let id = find(&self.local, &finish.path).expect("a finished directory is there");
            self.local.get_mut(&id).unwrap().entry = finish.remote.entry.clone();
        }
        for record in &plan.records {
            match record {
                Record::Agree { remote, local } => self.agree(remote, local.0),
                Record::Drop { id } => {
                    self.base.remove(&id.0);
                }
            }
        }
    }

    fn clear(&mut self, clear: &Clear) {
        match clear {
            Clear::Remove { path, local, displaced } => {
                let id = self.at(path, local.id);
                let content = self.local.remove(&id).unwrap().entry.content;
                assert!(!content.is_dir());
                self.displace(&content, *displaced);
            }
            Clear::RemoveDir { path, local } => {
                let id = self.at(path, local.id);
                assert!(children(&self.local, id).is_empty(), "{path} is empty when it is removed");
                self.local.remove(&id);
            }
            Clear::Move { from, to, local, remote } => {
                let id = self.at(from, local.id);
                self.relocate(id, to, remote);
            }
            Clear::TakeOut { path, local, remote } => {
                let id = self.at(path, local.id);
                self.local.get_mut(&id).unwrap().parent = NodeId(u64::MAX);
                self.taken.insert(remote.id.0, id);
            }
        }
    }

    fn put(&mut self, put: &Put) {
        match put {
            Put::File { path, remote, over, source } => {
                match source {
                    Source::Fetch => {}
                    Source::Copy(copy) => drop(self.read_copy(&copy.path, copy.local, &remote.entry.content)),
                    Source::Captured => {
                        assert_eq!(self.staged.remove(&remote.id.0).as_ref(), Some(&remote.entry.content));
                    }
                }
                self.place(path, remote, over.as_ref());
            }
            Put::Link { path, remote, over } => self.place(path, remote, over.as_ref()),
            Put::Metadata { path, remote, local } => {
                let id = self.at(path, local.id);
                let entry = &mut self.local.get_mut(&id).unwrap().entry;
                assert_eq!(entry.content, remote.entry.content);
                *entry = remote.entry.clone();
                self.agree(remote, id);
            }
        }
    }
}

pub(crate) const FREE: Guard = Guard { allow: true, first_run: false, files_then: 0, deleted_since: 0 };

/// Plans, and carries it out.
pub(crate) fn run(model: &mut Model, scope: &Scope) -> Plan {
    let Ok(slots) = gather(model, scope);
    let made = plan(slots, Policy::LeftWins, &FREE).expect("everything is allowed");
    model.carry_out(&made);
    made
}

/// Every file content that only the target had is still there or in the trash.
pub(crate) fn nothing_vanished(seed: u64, before: &Model, after: &Model) {
    let is_file = |content: &&Content| !content.is_dir();
    let remembered: HashSet<&Content> =
        after.local.values().map(|node| &node.entry.content).chain(&after.trash).collect();
    let agreed: HashMap<u64, &Content> =
        before.base.values().map(|base| (base.local.0, &base.entry.content)).collect();
    for node in before.local.values() {
        let content = &node.entry.content;
        let the_other_side_had_it = agreed.get(&node.id.0).is_some_and(|base| *base == content);
        if is_file(&content) && !the_other_side_had_it {
            assert!(remembered.contains(content), "seed {seed}: {node:?} is lost");
        }
    }
}

pub(crate) fn numbered(count: u64, with_base: bool) -> Model {
    let mut model = Model::of(Tree::new());
    for id in 1..=count {
        let content = Content::File { size: 1, digest: Digest::of(&id.to_le_bytes()) };
        let entry = Entry { content, mtime: Time::default(), mode: 0o644 };
        let name = Name::new(&format!("f{id}")).unwrap();
        let local = Node { id: NodeId(id + 500_000), parent: NodeId::ROOT, name, entry: entry.clone() };
        if with_base {
            model.base.insert(id, Base { id: NodeId(id), local: local.id, entry });
        }
        model.local.insert(local.id.0, local);
    }
    model
}

pub(crate) fn file(text: &str, secs: i64) -> Entry {
    let content = Content::File { size: text.len() as u64, digest: Digest::of(text.as_bytes()) };
    Entry { content, mtime: Time { secs, nanos: 0 }, mode: 0o644 }
}

pub(crate) fn node(id: u64, parent: u64, name: &str, entry: Entry) -> Node {
    Node { id: NodeId(id), parent: NodeId(parent), name: Name::new(name).unwrap(), entry }
}
