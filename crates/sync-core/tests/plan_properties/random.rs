//! Trees, and what people make of them, by a seeded generator of our own.

use sync_core::{Content, Digest, Entry, Name, Node, NodeId, Time, plan::Base};

use crate::model::{Model, Tree, child, children};

/// A small fast generator (splitmix64): the same seed gives the same case on every machine.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize]) }
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

pub(crate) fn is_above(tree: &Tree, above: u64, id: u64) -> bool {
    std::iter::successors(Some(id), |id| tree.get(id).map(|node| node.parent.0)).any(|id| id == above)
}

/// One change that a person might make: create, delete, rewrite, change the kind, move, chmod.
pub(crate) fn mutate(rng: &mut Rng, tree: &mut Tree, next_id: &mut u64) {
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
pub(crate) fn case(seed: u64) -> Model {
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

/// A tree of which some nodes are older than the directories that they are in.
pub(crate) fn arriving(seed: u64) -> Tree {
    let mut model = case(seed);
    let mut rng = Rng(seed ^ 0xa551);
    let mut next = 200;
    for _ in 0..rng.below(30) {
        mutate(&mut rng, &mut model.remote, &mut next);
    }
    model.remote
}
