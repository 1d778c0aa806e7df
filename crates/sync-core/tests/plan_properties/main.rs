//! Properties of `gather` and `plan` over random trees: a model of a target in memory, an own seeded generator, and a
//! million cases in the normal run.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a failing seed is named, and can be asked for"
)]

mod examples;
mod filling;
mod model;
mod random;

use std::collections::HashMap;

use model::{FREE, Model, children, find, nothing_vanished, paths, run};
use random::{Rng, case, is_above};
use sync_core::{
    Content, NodeId, TreePath,
    plan::{Clear, Policy, Put, Scope, Source, gather, gather_all, plan},
};

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

/// `PLAN_SEED=n cargo test -p sync-core --test plan_properties one_case -- --nocapture` shows one case.
#[test]
fn one_case_by_its_seed() {
    let seed = std::env::var("PLAN_SEED").ok().and_then(|seed| seed.parse().ok());
    check(seed.unwrap_or(0));
}

/// What is in a new directory is left to the walk through it, but only where that directory was named before.
#[test]
fn in_whatever_order_nodes_are_named_the_same_places_are_found() {
    let gathered = |model: &Model, scope: &Scope| {
        let Ok(mut slots) = gather(model, scope);
        slots.sort_by(|a, b| a.path.cmp(&b.path));
        slots
    };
    for seed in (1..200_000).step_by(2) {
        let model = case(seed);
        let mut named = scope(&model, seed);
        let slots = gathered(&model, &named);
        let Scope::Nodes { remote, .. } = &mut named else { panic!("seed {seed} names nodes") };
        remote.reverse();
        assert_eq!(gathered(&model, &named), slots, "seed {seed}");
    }
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
