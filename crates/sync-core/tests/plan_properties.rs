//! Properties of `gather` and `plan` over random trees: a model of a target in memory, an own seeded generator, and a
//! million cases in the normal run.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a failing seed is named, and can be asked for"
)]

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet},
    slice,
};

use sync_core::{
    Content, Digest, Entry, Halt, Name, Node, NodeId, Time, TreePath,
    plan::{
        Base, Build, Clear, Displaced, Filling, Fresh, Guard, Keep, Over, Plan, Policy, Put, Record, Scope,
        Slot, Source, Trees, gather, gather_all, plan,
    },
};

/// A small fast generator (splitmix64): the same seed gives the same case on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize]) }
    }
}

type Tree = BTreeMap<u64, Node>;

/// The three trees of a target, and what its disk does when a plan is carried out.
#[derive(Clone, Default, Debug)]
struct Model {
    remote: Tree,
    local: Tree,
    base: BTreeMap<u64, Base>,
    next_id: u64,
    staged: HashMap<u64, Content>,
    taken: HashMap<u64, u64>,
    trash: Vec<Content>,
    kept: HashSet<String>,
}

fn child<'a>(tree: &'a Tree, parent: u64, name: &str) -> Option<&'a Node> {
    tree.values().find(|node| node.parent.0 == parent && node.name.as_str() == name)
}

fn children(tree: &Tree, parent: u64) -> Vec<Node> {
    tree.values().filter(|node| node.parent.0 == parent).cloned().collect()
}

fn find(tree: &Tree, path: &TreePath) -> Option<u64> {
    path.names().try_fold(0, |at, name| child(tree, at, name).map(|node| node.id.0))
}

fn paths(tree: &Tree) -> BTreeMap<String, Entry> {
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

    fn carry_out(&mut self, plan: &Plan) {
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

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn content(rng: &mut Rng) -> Content {
    match rng.below(9) {
        0..=2 => Content::Directory,
        3 => Content::Symlink { target: vec![b'x', rng.below(2) as u8 + b'0'].into() },
        _ => {
            let text = [rng.below(6) as u8];
            Content::File { size: 1, digest: Digest([text[0]; 32]) }
        }
    }
}

fn entry(rng: &mut Rng, content: Content) -> Entry {
    let mode = if matches!(content, Content::Symlink { .. }) { 0 } else { 0o600 + rng.below(2) as u16 };
    Entry { content, mtime: Time { secs: rng.below(2) as i64, nanos: 0 }, mode }
}

fn dirs(tree: &Tree) -> Vec<u64> {
    let below = tree.values().filter(|node| node.entry.content.is_dir()).map(|node| node.id.0);
    std::iter::once(0).chain(below).collect()
}

fn remove_below(tree: &mut Tree, id: u64) {
    for node in children(tree, id) {
        remove_below(tree, node.id.0);
        tree.remove(&node.id.0);
    }
}

fn is_above(tree: &Tree, above: u64, id: u64) -> bool {
    std::iter::successors(Some(id), |id| tree.get(id).map(|node| node.parent.0)).any(|id| id == above)
}

/// One change that a person might make: create, delete, rewrite, change the kind, move, chmod.
fn mutate(rng: &mut Rng, tree: &mut Tree, next_id: &mut u64) {
    let ids: Vec<u64> = tree.keys().copied().collect();
    let Some(parent) = rng.pick(&dirs(tree)) else { return };
    let name = NAMES[rng.below(5) as usize];
    match (rng.below(10), rng.pick(&ids)) {
        (0..=3, _) | (_, None) => {
            if child(tree, parent, name).is_none() {
                *next_id += 1;
                let content = content(rng);
                let entry = entry(rng, content);
                let node = Node {
                    id: NodeId(*next_id),
                    parent: NodeId(parent),
                    name: Name::new(name).unwrap(),
                    entry,
                };
                tree.insert(*next_id, node);
            }
        }
        (4, Some(id)) => {
            remove_below(tree, id);
            tree.remove(&id);
        }
        (5 | 6, Some(id)) => {
            let content = content(rng);
            if tree[&id].entry.content.is_dir() && !content.is_dir() {
                remove_below(tree, id);
            }
            let entry = entry(rng, content);
            tree.get_mut(&id).unwrap().entry = entry;
        }
        (7 | 8, Some(id)) => {
            if child(tree, parent, name).is_none() && !is_above(tree, id, parent) {
                let node = tree.get_mut(&id).unwrap();
                node.parent = NodeId(parent);
                node.name = Name::new(name).unwrap();
            }
        }
        (_, Some(id)) => {
            let content = tree[&id].entry.content.clone();
            tree.get_mut(&id).unwrap().entry = entry(rng, content);
        }
    }
}

/// A tree that both sides had, and what each made of it since.
fn case(seed: u64) -> Model {
    let mut rng = Rng(seed);
    let mut model = Model::default();
    let mut next = 100;
    for _ in 0..rng.below(10) {
        mutate(&mut rng, &mut model.remote, &mut next);
    }
    // The local ids are others than the remote ones, as in life.
    let local_id = |id: NodeId| if id == NodeId::ROOT { id } else { NodeId(id.0 + 10_000) };
    for node in model.remote.values() {
        let local = Node { id: local_id(node.id), parent: local_id(node.parent), ..node.clone() };
        let known = rng.below(8) != 0;
        if known {
            model.base.insert(node.id.0, Base { id: node.id, local: local.id, entry: node.entry.clone() });
        }
        model.local.insert(local.id.0, local);
    }
    for _ in 0..rng.below(7) {
        mutate(&mut rng, &mut model.remote, &mut next);
    }
    let mut next_local = 50_000;
    for _ in 0..rng.below(4) {
        mutate(&mut rng, &mut model.local, &mut next_local);
    }
    model.next_id = 90_000;
    model
}

const FREE: Guard = Guard { allow: true, first_run: false, files_then: 0, deleted_since: 0 };

fn scope(before: &Model, seed: u64) -> Scope {
    if seed.is_multiple_of(2) {
        return Scope::Everything;
    }
    // What a target knows to be pending: every node of either side that is not as it was agreed on.
    let remote_ids = before.remote.keys().chain(before.base.keys());
    let settled = |id: &u64| {
        let (Some(remote), Some(base)) = (before.remote.get(id), before.base.get(id)) else { return false };
        before.local.get(&base.local.0).is_some_and(|local| {
            let same_place = local.name == remote.name && {
                let parent = before.base.get(&remote.parent.0).map_or(remote.parent, |base| base.local);
                local.parent == parent
                    && (remote.parent == NodeId::ROOT || before.base.contains_key(&remote.parent.0))
            };
            same_place && local.entry == base.entry && remote.entry == base.entry
        })
    };
    let remote = remote_ids.filter(|id| !settled(id)).map(|id| NodeId(*id)).collect();
    let known: HashMap<u64, u64> = before.base.values().map(|base| (base.local.0, base.id.0)).collect();
    let local = before.local.keys().filter(|id| known.get(*id).is_none_or(|remote| !settled(remote)));
    Scope::Nodes { remote, local: local.map(|id| NodeId(*id)).collect() }
}

fn run(model: &mut Model, scope: &Scope) -> Plan {
    let Ok(slots) = gather(model, scope);
    let made = plan(slots, Policy::LeftWins, &FREE).expect("everything is allowed");
    model.carry_out(&made);
    made
}

fn check(seed: u64) {
    let before = case(seed);
    let scope = scope(&before, seed);
    let mut after = before.clone();
    let Ok(slots) = gather(&before, &scope);
    let made = plan(slots, Policy::LeftWins, &FREE).expect("everything is allowed");
    let Ok(again) = gather(&before, &scope);
    assert_eq!(
        plan(again, Policy::LeftWins, &FREE).as_ref(),
        Ok(&made),
        "seed {seed}: same input, same plan"
    );
    if std::env::var("PLAN_SEED").is_ok() {
        println!("{before:#?}\n{made:#?}");
    }
    after.carry_out(&made);

    assert_eq!(
        paths(&after.local),
        paths(&after.remote),
        "seed {seed}: the target equals the share\n{made:#?}"
    );
    assert!(after.taken.is_empty(), "seed {seed}: nothing stays in staging");
    nothing_vanished(seed, &before, &after);
    let second = run(&mut after.clone(), &Scope::Everything);
    assert!(second.is_empty(), "seed {seed}: a second plan is empty\n{second:#?}");
}

/// Every file content that only the target had is still there or in the trash.
fn nothing_vanished(seed: u64, before: &Model, after: &Model) {
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

/// A panic anywhere in a case names the seed.
fn named_check(seed: u64) {
    if let Err(panic) = std::panic::catch_unwind(|| check(seed)) {
        eprintln!("the case of PLAN_SEED={seed} failed");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_million_random_cases_end_equal_and_lose_nothing() {
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..1_000_000).step_by(threads as usize).for_each(named_check));
        }
    });
}

/// `PLAN_SEED=n cargo test -p sync-core --test plan_properties one -- --nocapture` shows one case.
#[test]
fn one_case_by_its_seed() {
    let seed = std::env::var("PLAN_SEED").ok().and_then(|seed| seed.parse().ok());
    check(seed.unwrap_or(0));
}

#[test]
fn what_is_unknown_is_never_removed() {
    for seed in 0..100_000 {
        let mut model = case(seed);
        // At the top, where a place has the same path on both sides whatever moved.
        let top: Vec<String> =
            children(&model.local, 0).iter().map(|node| node.name.as_str().to_owned()).collect();
        let Some(path) = Rng(seed ^ 0x5eed).pick(&top.iter().collect::<Vec<_>>()).cloned() else { continue };
        // The share cannot read this place: it is not in the feed, and must not look like a deletion.
        model.kept.insert(path.clone());
        let place = TreePath::new(&path).unwrap();
        let node = find(&model.local, &place).expect("it was listed");
        // A node that the share has elsewhere, or something below it that it has, is known and may move.
        let known = model
            .base
            .values()
            .any(|base| is_above(&model.local, node, base.local.0) && model.remote.contains_key(&base.id.0));
        if find(&model.remote, &place).is_some() || known {
            continue;
        }
        let Ok(slots) = gather(&model, &Scope::Everything);
        let made = plan(slots, Policy::LeftWins, &FREE).expect("everything is allowed");
        for clear in &made.clear {
            if let Clear::Remove { path, .. } | Clear::RemoveDir { path, .. } = clear {
                assert!(!path.is_within(&place), "seed {seed}: {path} is removed\n{model:#?}\n{made:#?}");
            }
        }
    }
}

#[test]
fn full_takes_every_file_anew_and_still_ends_equal() {
    for seed in 0..50_000 {
        let mut model = case(seed);
        let Ok(slots) = gather_all(&model, &Scope::Everything);
        let made = plan(slots, Policy::LeftWinsAnew, &FREE).expect("everything is allowed");
        let fetched =
            made.files.iter().filter(|put| matches!(put, Put::File { source: Source::Fetch, .. })).count();
        let files =
            model.remote.values().filter(|node| matches!(node.entry.content, Content::File { .. })).count();
        assert_eq!(fetched, files, "seed {seed}");
        model.carry_out(&made);
        assert_eq!(paths(&model.local), paths(&model.remote), "seed {seed}");
    }
}

/// Carries out a part. An action in a directory that is not there yet, or in a place that is taken, would panic.
fn carry_out_part(model: &mut Model, part: Vec<Slot>) {
    let made = plan(part, Policy::LeftWins, &Guard::default()).expect("nothing is deleted");
    model.carry_out(&made);
}

/// Carries out what a filling describes, part by part.
fn fill(model: &mut Model, mut filling: Filling, least: usize) -> Vec<Slot> {
    let mut parts = Vec::new();
    while let Ok(Some(part)) = filling.next_part(model, least) {
        carry_out_part(model, part.clone());
        parts.extend(part);
    }
    parts
}

/// A tree of which some nodes are older than the directories that they are in.
fn arriving(seed: u64) -> Tree {
    let mut model = case(seed);
    let mut rng = Rng(seed ^ 0xa551);
    let mut next = 200;
    for _ in 0..rng.below(30) {
        mutate(&mut rng, &mut model.remote, &mut next);
    }
    model.remote
}

/// Lets a tree arrive by its ids, and a blank side be filled with it meanwhile. Answers what was described.
fn fill_while_it_arrives(seed: u64, fresh: &mut Fresh, model: &mut Model, tree: &Tree) -> Vec<Slot> {
    let mut rng = Rng(seed ^ 0xf111);
    let least = 1 + rng.below(4) as usize;
    let mut all = Vec::new();
    let mut leaves = HashSet::new();
    let mut part_of = |fresh: &Fresh, model: &mut Model, part: Vec<Slot>| {
        for slot in &part {
            let node = slot.remote.as_ref().expect("it is the share's");
            assert!(!leaves.contains(&node.parent), "seed {seed}: {} was said to be complete", slot.path);
        }
        let dirs = tree.values().filter(|node| node.entry.content.is_dir()).map(|node| node.id);
        leaves.extend(dirs.filter(|dir| fresh.is_leaf(*dir)));
        carry_out_part(model, part.clone());
        all.extend(part);
    };
    let mut to_come = tree.values();
    loop {
        let some: Vec<&Node> = to_come.by_ref().take(1 + rng.below(3) as usize).collect();
        if some.is_empty() {
            break;
        }
        model.remote.extend(some.into_iter().map(|node| (node.id.0, node.clone())));
        while let Ok(Some(part)) = fresh.next_part(model, least) {
            assert!(part.len() >= least);
            part_of(fresh, model, part);
        }
    }
    let part = fresh.last_part();
    part_of(fresh, model, part);
    all
}

#[test]
fn a_blank_side_that_is_filled_while_the_tree_arrives_gets_the_same_plan() {
    for seed in 0..100_000 {
        let tree = arriving(seed);
        let mut model = Model { next_id: 1_000_000, ..Model::default() };
        let mut fresh = Fresh::default();
        let mut parts = fill_while_it_arrives(seed, &mut fresh, &mut model, &tree);
        assert!(!fresh.is_full());
        let Ok(late) = fresh.late(&model);
        carry_out_part(&mut model, late.clone());
        parts.extend(late);
        assert_eq!(paths(&model.local), paths(&tree), "seed {seed}");
        let Ok(mut whole) = gather(&Model { remote: tree, ..Model::default() }, &Scope::Everything);
        whole.sort_by(|a, b| a.path.cmp(&b.path));
        parts.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(parts, whole, "seed {seed}");
        assert!(run(&mut model, &Scope::Everything).is_empty(), "seed {seed}: it is all agreed on");
    }
}

/// A first look gives ids from the top down, and those in one directory in a row.
#[test]
fn of_a_tree_that_was_just_found_nothing_is_late_and_every_directory_without_others_is_complete() {
    for seed in 0..10_000 {
        let mut found = arriving(seed);
        let (mut tree, mut ids) = (Tree::new(), HashMap::from([(0, 0)]));
        let mut dirs = vec![0];
        while let Some(dir) = dirs.pop() {
            for mut node in children(&found, dir) {
                let id = 1 + tree.len() as u64;
                ids.insert(node.id.0, id);
                dirs.extend(node.entry.content.is_dir().then_some(node.id.0));
                found.remove(&node.id.0);
                (node.id, node.parent) = (NodeId(id), NodeId(ids[&dir]));
                tree.insert(id, node);
            }
        }
        let mut model = Model { remote: tree.clone(), next_id: 1_000_000, ..Model::default() };
        let mut fresh = Fresh::default();
        let least = 1 + seed as usize % 4;
        let mut leaves: HashSet<u64> = HashSet::new();
        let mut last = false;
        while !last {
            let Ok(part) = fresh.next_part(&model, least);
            last = part.is_none();
            carry_out_part(&mut model, part.unwrap_or_else(|| fresh.last_part()));
            leaves.extend(tree.keys().filter(|id| fresh.is_leaf(NodeId(**id))));
        }
        assert_eq!(fresh.late(&model), Ok(Vec::new()), "seed {seed}");
        assert_eq!(paths(&model.local), paths(&tree), "seed {seed}");
        for (id, dir) in &tree {
            let inside = children(&tree, *id);
            let is_leaf = !inside.is_empty() && inside.iter().all(|node| !node.entry.content.is_dir());
            assert_eq!(leaves.contains(id), is_leaf, "seed {seed}: {dir:?}");
        }
    }
}

/// Of two directories that are looked at side by side what is in them may come by turns.
#[test]
fn more_of_a_directory_with_others_in_it_may_come_later_and_is_not_late() {
    let dir = Entry { content: Content::Directory, mtime: Time::default(), mode: 0o755 };
    let places =
        [(1, 0), (2, 0), (3, 1), (4, 2), (5, 1), (6, 3), (7, 2), (8, 1), (9, 5), (10, 2), (11, 7), (12, 4)];
    let of = |id, parent| {
        let is_dir = places.iter().any(|(_, above)| *above == id);
        node(id, parent, &id.to_string(), if is_dir { dir.clone() } else { file("x", id as i64) })
    };
    let tree: Tree = places.into_iter().map(|(id, parent)| (id, of(id, parent))).collect();
    for seed in 0..100 {
        let mut model = Model { next_id: 1_000_000, ..Model::default() };
        let mut fresh = Fresh::default();
        fill_while_it_arrives(seed, &mut fresh, &mut model, &tree);
        assert!(!fresh.has_late(), "seed {seed}");
        assert_eq!(paths(&model.local), paths(&tree), "seed {seed}");
    }
}

#[test]
fn what_is_too_much_to_be_held_while_a_tree_arrives_is_left_to_the_rest() {
    let mut full = 0;
    for seed in 0..20_000 {
        let tree = arriving(seed);
        let mut model = Model { next_id: 1_000_000, ..Model::default() };
        let mut fresh = Fresh::with_room_for(seed as usize % 4);
        fill_while_it_arrives(seed, &mut fresh, &mut model, &tree);
        full += usize::from(fresh.is_full());
        fill(&mut model, Filling::rest(), 3);
        run(&mut model, &Scope::Everything);
        assert_eq!(paths(&model.local), paths(&tree), "seed {seed}");
    }
    assert!(full > 5000, "only {full} trees were too large");
}

/// Whatever becomes of the tree while it arrives, a plan of the whole brings it in order.
#[test]
fn a_tree_that_changes_while_it_arrives_is_right_in_the_end() {
    for seed in 0..100_000 {
        let mut rng = Rng(seed ^ 0xc4a9);
        let mut tree = arriving(seed);
        let mut model = Model { next_id: 1_000_000, ..Model::default() };
        let mut fresh = Fresh::default();
        let mut next = 1000;
        let mut seen = 0;
        while seen < tree.keys().next_back().copied().unwrap_or(0) {
            seen += 1 + rng.below(40);
            if rng.below(3) == 0 {
                mutate(&mut rng, &mut tree, &mut next);
            }
            model.remote =
                tree.iter().filter(|(id, _)| **id <= seen).map(|(id, node)| (*id, node.clone())).collect();
            while let Ok(Some(part)) = fresh.next_part(&model, 1 + seed as usize % 3) {
                carry_out_what_is_possible(&mut model, part);
            }
        }
        model.remote = tree;
        let last = fresh.last_part();
        carry_out_what_is_possible(&mut model, last);
        run(&mut model, &Scope::Everything);
        assert_eq!(paths(&model.local), paths(&model.remote), "seed {seed}");
        assert!(model.trash.is_empty(), "seed {seed}: all that was here came from the share");
    }
}

/// As a disk does: what has no directory, or whose place is taken, fails by itself.
fn carry_out_what_is_possible(model: &mut Model, part: Vec<Slot>) {
    for slot in part {
        let (parent, _) = slot.path.split().expect("not the root");
        let has_dir = parent.is_root()
            || find(&model.local, &parent).is_some_and(|id| model.local[&id].entry.content.is_dir());
        if has_dir && find(&model.local, &slot.path).is_none() {
            carry_out_part(model, vec![slot]);
        }
    }
}

#[test]
fn any_side_may_be_filled_with_what_it_lacks_before_it_is_planned_as_a_whole() {
    for seed in 0..100_000 {
        let before = case(seed);
        let mut after = before.clone();
        for slot in fill(&mut after, Filling::rest(), 1 + seed as usize % 5) {
            let Some(Node { entry: Entry { content: Content::File { digest, .. }, .. }, .. }) = slot.remote
            else {
                continue;
            };
            assert_eq!(before.local_with(&digest), Ok(None), "seed {seed}: it is here already");
        }
        for (id, node) in &before.local {
            assert_eq!(after.local.get(id), Some(node), "seed {seed}: nothing that was here is touched");
        }
        run(&mut after, &Scope::Everything);
        assert_eq!(paths(&after.local), paths(&after.remote), "seed {seed}");
        nothing_vanished(seed, &before, &after);
    }
}

fn numbered(count: u64, with_base: bool) -> Model {
    let mut model = Model { next_id: 1_000_000, ..Model::default() };
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
    let mut model = Model { next_id: 1_000_000, ..Model::default() };
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

fn file(text: &str, secs: i64) -> Entry {
    let content = Content::File { size: text.len() as u64, digest: Digest::of(text.as_bytes()) };
    Entry { content, mtime: Time { secs, nanos: 0 }, mode: 0o644 }
}

fn node(id: u64, parent: u64, name: &str, entry: Entry) -> Node {
    Node { id: NodeId(id), parent: NodeId(parent), name: Name::new(name).unwrap(), entry }
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
    let mut model = Model { next_id: 1_000_000, ..Model::default() };
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
