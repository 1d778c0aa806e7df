//! A side that is filled before it is planned as a whole: from the share's tree while it arrives, or from all that is lacking.

use std::collections::{HashMap, HashSet};

use sync_core::{
    Content, Entry, Node, NodeId, Time,
    plan::{Filling, Fresh, Put, Scope, Slot, Trees, gather, plan_filling},
};

use crate::{
    model::{Model, Tree, children, file, find, node, nothing_vanished, paths, run},
    random::{Rng, arriving, case, mutate},
};

/// Carries out a part. An action in a directory that is not there yet, or in a place that is taken, would panic.
fn carry_out_part(model: &mut Model, part: Vec<Slot>) {
    let made = plan_filling(part);
    assert!(made.clear.is_empty() && made.captures.is_empty(), "nothing makes way");
    assert!(made.files.iter().all(is_new), "nothing is replaced");
    model.carry_out(&made);
}

fn is_new(put: &Put) -> bool {
    matches!(put, Put::File { over: None, .. } | Put::Link { over: None, .. })
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
        let mut model = Model::of(Tree::new());
        let mut fresh = Fresh::default();
        let mut parts = fill_while_it_arrives(seed, &mut fresh, &mut model, &tree);
        assert!(!fresh.is_full());
        let Ok(late) = fresh.late(&model);
        carry_out_part(&mut model, late.clone());
        parts.extend(late);
        assert_eq!(paths(&model.local), paths(&tree), "seed {seed}");
        let Ok(mut whole) = gather(&Model::of(tree), &Scope::Everything);
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
        let mut model = Model::of(tree.clone());
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
        let mut model = Model::of(Tree::new());
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
        let mut model = Model::of(Tree::new());
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
        let mut model = Model::of(Tree::new());
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
