use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64},
};

use sync_core::{Digest, Entry, Name, Node, Time};
use sync_testkit::rng::Rng;

use super::*;
use crate::hash::Identity;

/// A file whose state is told by its time.
fn file(id: u64, state: i64) -> IndexedNode {
    let content = Content::File { size: id, digest: Digest::of(&id.to_le_bytes()) };
    let entry = Entry { content, mtime: Time { secs: state, nanos: 0 }, mode: 0o644 };
    let name = Name::new(&format!("file {id}")).unwrap();
    let node = Node { id: NodeId(id), parent: NodeId::ROOT, name, entry };
    let identity = Identity { size: id, mtime: Time { secs: state, nanos: 0 }, ..Identity::default() };
    IndexedNode { node, identity, vouched: false }
}

fn directory(id: u64) -> IndexedNode {
    let mut row = file(id, 0);
    row.node.entry.content = Content::Directory;
    row
}

fn index_of(rows: impl IntoIterator<Item = IndexedNode>) -> (tempfile::TempDir, Index) {
    let tmp = tempfile::tempdir().unwrap();
    let index = Index::open(&tmp.path().join("x.db")).unwrap();
    index.write(|tx| rows.into_iter().try_for_each(|row| tx.insert(&row))).unwrap();
    (tmp, index)
}

fn change(index: &Index, from: &IndexedNode, to: &IndexedNode) {
    assert!(index.write(|tx| tx.update(from, to)).unwrap().0);
}

fn tell(told: &Told, index: &Index, after: u64, now: Instant) -> bool {
    let (rows, edition) = index.tree_rows(NodeId(after), 10).unwrap();
    told.put(edition.unwrap(), rows, now)
}

#[test]
fn what_was_told_is_here_until_it_was_asked_for() {
    let rows: Vec<_> = (1..=30).map(|id| if id == 4 { directory(id) } else { file(id, 1) }).collect();
    let (_tmp, index) = index_of(rows.clone());
    let (told, now) = (Told::default(), Instant::now());
    assert!(tell(&told, &index, 0, now), "they are the first");
    assert!(!tell(&told, &index, 10, now));
    let mut reader = told.reader(&index, now);
    for id in (1..=20).rev() {
        let want = (id != 4).then(|| rows[id as usize - 1].clone());
        assert_eq!(reader.get(NodeId(id)), want, "{id}");
    }
    assert_eq!(reader.get(NodeId(21)), None, "it was not told");
    let kept = told.lock();
    assert_eq!((kept.pages.len(), kept.bytes), (0, 0), "all of them were asked for");
    drop(kept);
    assert!(tell(&told, &index, 10, now), "they are the first again");
}

#[test]
fn what_is_told_to_several_is_kept_once() {
    let (_tmp, index) = index_of((1..=30).map(|id| file(id, 1)));
    let (told, now) = (Told::default(), Instant::now());
    tell(&told, &index, 0, now);
    let bytes = told.lock().bytes;
    assert!(!tell(&told, &index, 0, now) && !tell(&told, &index, 5, now));
    let kept = told.lock();
    assert_eq!((kept.pages.len(), kept.bytes), (1, bytes));
}

#[test]
fn a_commit_makes_all_of_it_useless() {
    let (_tmp, index) = index_of((1..=30).map(|id| file(id, 1)));
    let (told, now) = (Told::default(), Instant::now());
    let old = index.tree_rows(NodeId::ROOT, 10).unwrap();
    tell(&told, &index, 0, now);
    let mut reader = told.reader(&index, now);
    assert!(reader.get(NodeId(1)).is_some());
    change(&index, &file(20, 1), &file(20, 2));
    assert_eq!(reader.get(NodeId(2)), None, "not even of the page that is at hand");
    tell(&told, &index, 10, now);
    assert_eq!(reader.get(NodeId(20)), Some(file(20, 2)));
    assert_eq!(told.lock().pages.len(), 1);
    assert!(!told.put(old.1.unwrap(), old.0, now), "of an edition before");
    assert_eq!((reader.get(NodeId(2)), told.lock().pages.len()), (None, 1));
}

#[test]
fn what_nobody_asks_for_is_forgotten() {
    let (_tmp, index) = index_of((1..=30).map(|id| file(id, 1)));
    let (told, began) = (Told::default(), Instant::now());
    assert_eq!(told.forget_old(began), None);
    tell(&told, &index, 0, began);
    assert_eq!(told.forget_old(began), Some(began + KEPT_FOR));
    let later = began + KEPT_FOR / 2;
    assert!(told.reader(&index, later).get(NodeId(3)).is_some());
    assert!(told.reader(&index, began).get(NodeId(4)).is_some(), "time does not go back by it");
    let end = later + KEPT_FOR;
    let just_before = end - Duration::from_nanos(1);
    assert_eq!(told.forget_old(just_before), Some(just_before + FORGOTTEN_EVERY));
    assert!(told.reader(&index, later).get(NodeId(5)).is_some());
    assert_eq!(told.forget_old(end), None);
    assert_eq!(told.reader(&index, end).get(NodeId(6)), None);
    assert!(tell(&told, &index, 0, end));
    told.close();
    assert_eq!(told.reader(&index, end).get(NodeId(6)), None);
    assert!(!tell(&told, &index, 0, end) && told.is_empty(), "nobody would forget it");
}

#[test]
fn there_is_a_bound_and_what_came_first_stays() {
    let (_tmp, index) = index_of([]);
    let (told, now, edition) = (Told::default(), Instant::now(), index.edition().unwrap());
    let page = |from: u64| (from..from + 4096).map(|id| file(id, 1)).collect::<Vec<_>>();
    for number in 0..40 {
        told.put(edition, page(1 + number * 4096), now);
        let kept = told.lock();
        let sum: usize = kept.pages.iter().map(|page| page.bytes).sum();
        assert!(kept.bytes == sum && sum <= MOST_BYTES);
    }
    let pages = told.lock().pages.len();
    assert!((10..40).contains(&pages), "{pages}");
    let mut reader = told.reader(&index, now);
    assert!((1..=4096).all(|id| reader.get(NodeId(id)).is_some()));
    assert_eq!(reader.get(NodeId(40 * 4096)), None);
    told.put(edition, page(1 + 39 * 4096), now);
    assert!(reader.get(NodeId(40 * 4096)).is_some(), "there is room again");
}

#[test]
fn what_is_no_file_takes_no_room() {
    let (_tmp, index) = index_of([]);
    let (told, now) = (Told::default(), Instant::now());
    let rows = (1..=4096).map(|id| if id == 7 { file(id, 1) } else { directory(id) }).collect();
    assert!(told.put(index.edition().unwrap(), rows, now));
    let kept = told.lock();
    assert!(kept.pages[0].files.capacity() < 10, "{}", kept.pages[0].files.capacity());
}

/// Pages come, files are asked for and change, in any order: what is found is always what the index has.
#[test]
fn it_never_differs_from_the_index() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let mut states: HashMap<u64, IndexedNode> = (1..=60).map(|id| (id, file(id, 0))).collect();
        let (_tmp, index) = index_of((1..=60).map(|id| file(id, 0)));
        let (told, mut now) = (Told::default(), Instant::now());
        let mut reader = told.reader(&index, now);
        let mut found = 0;
        for state in 1..400 {
            let id = 1 + rng.below(60) as u64;
            match rng.below(20) {
                0 => {
                    let new = file(id, state);
                    change(&index, &states[&id], &new);
                    states.insert(id, new);
                }
                1 => {
                    now += KEPT_FOR / 3;
                    told.forget_old(now);
                    reader = told.reader(&index, now);
                }
                2..6 => drop(tell(&told, &index, id - 1, now)),
                _ => {
                    if let Some(row) = reader.get(NodeId(id)) {
                        assert_eq!(row, states[&id], "seed {seed}");
                        found += 1;
                    }
                }
            }
        }
        assert!(found > 20, "seed {seed}: {found}");
    }
}

/// While one changes a file over and over, others tell of it and ask for it: nobody finds a state that was over before they asked.
#[test]
fn nobody_finds_what_was_over_when_they_asked() {
    let (_tmp, index) = index_of((1..=10).map(|id| file(id, 0)));
    let (told, now) = (Told::default(), Instant::now());
    let (reached, stop, found) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let (rows, edition) = index.tree_rows(NodeId::ROOT, 10).unwrap();
                    if let Some(edition) = edition {
                        told.put(edition, rows, now);
                    }
                    let least = reached.load(Ordering::SeqCst);
                    if let Some(row) = told.reader(&index, now).get(NodeId(5)) {
                        assert!(row.node.entry.mtime.secs.cast_unsigned() >= least);
                        found.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        for state in 1.. {
            change(&index, &file(5, state - 1), &file(5, state));
            reached.store(state.cast_unsigned(), Ordering::SeqCst);
            if (state >= 300 && found.load(Ordering::SeqCst) >= 100) || Instant::now() > deadline {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(found.into_inner() >= 100, "they are found while it changes");
}
