use sync_core::{Content, Digest, Entry, Name, Node, Time};
use sync_testkit::rng::Rng;

use super::*;
use crate::{
    hash::Identity,
    index::{Index, IndexError},
};

fn ids(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn file(id: u64) -> IndexedNode {
    let content = Content::File { size: id, digest: Digest::of(&id.to_le_bytes()) };
    let entry = Entry { content, mtime: Time::default(), mode: 0o644 };
    let name = Name::new(&format!("file {id}")).unwrap();
    let node = Node { id: NodeId(id), parent: NodeId::ROOT, name, entry };
    IndexedNode { node, identity: Identity { size: id, ..Identity::default() }, vouched: false }
}

/// An index with files of these ids; those of `gone` have left tombstones.
fn with_files(known: &[u64], gone: &[u64]) -> (tempfile::TempDir, Index) {
    let tmp = tempfile::tempdir().unwrap();
    let index = Index::open(&tmp.path().join("x.db")).unwrap();
    let written = index.write(|tx| {
        known.iter().chain(gone).try_for_each(|id| tx.insert(&file(*id)))?;
        gone.iter().try_for_each(|id| tx.remove(&file(*id)).map(drop))
    });
    written.unwrap();
    (tmp, index)
}

/// What `asked` finds if `expected` was named before.
fn found(index: &Index, expected: &[NodeId], asked: &[NodeId]) -> Vec<Option<IndexedNode>> {
    let read = index.read(|db| {
        let mut lookup = index.table().lookup(db)?;
        lookup.expect(expected.iter().copied());
        asked.iter().map(|id| lookup.get(*id)).collect()
    });
    read.unwrap()
}

/// The same, each by itself.
fn found_singly(index: &Index, asked: &[NodeId]) -> Vec<Option<IndexedNode>> {
    index.read(|db| asked.iter().map(|id| index.table().get(db, *id)).collect()).unwrap()
}

#[test]
fn a_run_is_what_ascends_in_small_steps() {
    const HIGHEST: u64 = i64::MAX as u64;
    for (numbers, want) in [
        (&[][..], 0),
        (&[7], 1),
        (&[7, 8], 2),
        (&[7, 8, 9, 10], 4),
        (&[7, 10, 13], 3), // two rows between
        (&[7, 8, 12, 13], 2),
        (&[7, 11], 1),
        (&[7, 7, 8], 1), // the same twice
        (&[7, 8, 8, 9], 2),
        (&[9, 8, 7], 1),
        (&[7, 8, 6, 7], 2),
        (&[0, 1, 2], 3),
        (&[100, 200, 300], 1),
        (&[HIGHEST - 1, HIGHEST, HIGHEST + 1], 2), // the table has that one first of all
        (&[HIGHEST + 1, HIGHEST + 2], 2),
        (&[u64::MAX, 0], 2), // and that one right before the root
        (&[HIGHEST + 1, HIGHEST], 1),
    ] {
        assert_eq!(run_at_front(&ids(numbers)), want, "{numbers:?}");
    }
}

#[test]
fn what_is_read_together_is_what_is_read_singly() {
    let known: Vec<u64> = (3..300).filter(|id| id % 7 != 0 && id % 31 > 4).collect();
    let gone: Vec<u64> = (3..300).filter(|id| id % 14 == 0).collect();
    let (_tmp, index) = with_files(&known, &gone);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut asked = Vec::new();
        while asked.len() < 60 {
            let (from, count) = (rng.below(320) as u64, rng.below(40));
            let step = 1 + rng.below(5) as u64;
            let row = (0..count as u64).map(|at| NodeId(from + at * step));
            match rng.below(4) {
                0 => asked.extend(row.rev()),
                1 => asked.extend(row.flat_map(|id| [id, id])),
                2 => asked.extend(ids(&[0, u64::MAX, i64::MAX as u64, from])),
                _ => asked.extend(row),
            }
        }
        let singly = found_singly(&index, &asked);
        assert!(singly.iter().any(Option::is_some) && singly.iter().any(Option::is_none));
        assert_eq!(found(&index, &asked, &asked), singly, "seed {seed}");
        assert_eq!(found(&index, &[], &asked), singly, "seed {seed}: nothing is expected");
        let other: Vec<NodeId> = (0..60).map(|_| asked[rng.below(asked.len())]).collect();
        assert_eq!(found(&index, &other, &asked), singly, "seed {seed}: others are expected");
        let most = [2, 4, 30][rng.below(3)];
        let some: Vec<NodeId> = asked.iter().copied().filter(|_| rng.below(most) > 0).collect();
        assert_eq!(
            found(&index, &asked, &some),
            found_singly(&index, &some),
            "seed {seed}: some are passed by"
        );
    }
}

#[test]
fn the_root_is_no_node_of_a_run() {
    let (_tmp, index) = with_files(&[1, 2], &[]);
    let asked = ids(&[7, 8, u64::MAX, 0, 1, 2]);
    let found = found(&index, &asked, &asked);
    assert_eq!(found, [None, None, None, None, Some(file(1)), Some(file(2))]);
}

#[test]
fn no_more_is_read_ahead_than_was_asked_for() {
    let known: Vec<u64> = (1..100).collect();
    let (_tmp, index) = with_files(&known, &[]);
    let ahead = index.read(|db| {
        let mut lookup = index.table().lookup(db)?;
        lookup.expect(ids(&known));
        let mut ahead = Vec::new();
        for id in &known[..40] {
            assert_eq!(lookup.get(NodeId(*id))?, Some(file(*id)));
            ahead.push(lookup.ahead.len());
        }
        Ok(ahead)
    });
    let ahead = ahead.unwrap();
    assert!((0..40).all(|at| ahead[at] <= at.min(MOST_TOGETHER)), "{ahead:?}");
    assert_eq!(ahead[16], MOST_TOGETHER - 1, "{ahead:?}");
}

#[test]
fn what_is_passed_by_was_not_expected_for_nothing() {
    let known: Vec<u64> = (1..100).collect();
    let (_tmp, index) = with_files(&known, &[]);
    let read = index.read(|db| {
        let mut lookup = index.table().lookup(db)?;
        lookup.asked = MOST_TOGETHER;
        lookup.expect(ids(&known));
        for (id, ahead) in [(4, 15), (5, 14), (9, 10), (19, 0), (20, 15), (21, 14), (60, 14), (22, 13)] {
            assert_eq!(lookup.get(NodeId(id))?, Some(file(id)));
            assert_eq!(lookup.ahead.len(), ahead, "{id}");
        }
        Ok(())
    });
    read.unwrap();
}

#[test]
fn what_is_expected_anew_takes_the_place_of_what_was() {
    let (_tmp, index) = with_files(&(1..60).collect::<Vec<_>>(), &[]);
    let read = index.read(|db| {
        let mut lookup = index.table().lookup(db)?;
        for from in [1, 20, 10, 20] {
            lookup.expect((from..from + 30).map(NodeId));
            for id in from..from + 13 {
                assert_eq!(lookup.get(NodeId(id))?, Some(file(id)));
            }
        }
        Ok(())
    });
    read.unwrap();
}

#[test]
fn a_row_that_cannot_be_read_fails_whoever_asks_for_it_and_nobody_else() {
    let (_tmp, index) = with_files(&(1..40).collect::<Vec<_>>(), &[]);
    let spoil = |tx: &mut crate::index::IndexTx<'_>| {
        tx.sql().execute("UPDATE nodes SET content = x'00' WHERE id IN (20, 30)", [])?;
        Ok::<_, IndexError>(())
    };
    index.write(spoil).unwrap();
    // Nobody asks for 30, which lies in a run.
    let asked: Vec<NodeId> = (1..40).filter(|id| *id != 30).map(NodeId).collect();
    let read = index.read(|db| {
        let mut lookup = index.table().lookup(db)?;
        lookup.expect(asked.iter().copied());
        for id in &asked {
            match lookup.get(*id) {
                Ok(row) => assert_eq!(row, Some(file(id.0))),
                Err(error) => assert_eq!(*id, NodeId(20), "{error}"),
            }
        }
        Ok(())
    });
    read.unwrap();
}
