use std::{collections::BTreeMap, fs};

use super::*;
use crate::live::tests::Scene;

/// What a subscriber knows.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Copy {
    nodes: BTreeMap<NodeId, Node>,
    cursor: Vec<u8>,
    resets: u32,
    commits: u32,
}

impl Copy {
    fn take(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::Reset { .. } => {
                self.nodes.clear();
                self.resets += 1;
            }
            FeedEvent::Nodes { changes, resume } => {
                for change in changes {
                    match change {
                        NodeChange::Present(node) => drop(self.nodes.insert(node.id, node)),
                        NodeChange::Gone(id) => self.remove(id),
                    }
                }
                self.cursor = resume.0.into();
            }
            FeedEvent::Commit(commit) => {
                self.cursor = commit.cursor.0.into();
                self.commits += 1;
            }
            _ => {}
        }
    }

    /// A tombstone covers what is still below it.
    fn remove(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        let below: Vec<NodeId> =
            self.nodes.values().filter(|node| node.parent == id).map(|node| node.id).collect();
        below.into_iter().for_each(|id| self.remove(id));
    }

    /// Reads from the cursor until nothing is newer.
    fn catch_up(&mut self, scene: &Scene) -> Vec<FeedEvent> {
        scene.barrier().unwrap();
        let mut reader = FeedReader::start(scene.tree.index(), &self.cursor).unwrap();
        let mut all = Vec::new();
        while let Step::Events(events) = reader.step(&scene.tree).unwrap() {
            assert!(!events.is_empty());
            events.iter().cloned().for_each(|event| self.take(event));
            all.extend(events);
        }
        self.assert_complete(scene);
        all
    }

    fn assert_complete(&self, scene: &Scene) {
        let all = scene.tree.index().tree_page(NodeId::ROOT, usize::MAX >> 1).unwrap();
        assert_eq!(self.nodes.values().cloned().collect::<Vec<_>>(), all);
    }
}

fn kinds(events: &[FeedEvent]) -> Vec<&'static str> {
    let kind = |event: &FeedEvent| match event {
        FeedEvent::Reset { .. } => "reset",
        FeedEvent::Nodes { .. } => "nodes",
        FeedEvent::Commit(_) => "commit",
        FeedEvent::Rules(_) => "rules",
        FeedEvent::Problems(_) => "problems",
        FeedEvent::Watching(_) => "watching",
        FeedEvent::Halted { .. } => "halted",
        FeedEvent::Heartbeat => "heartbeat",
    };
    events.iter().map(kind).collect()
}

fn reason(events: &[FeedEvent]) -> Option<&str> {
    events.iter().find_map(|event| match event {
        FeedEvent::Reset { reason, .. } => Some(reason.as_str()),
        _ => None,
    })
}

#[test]
fn from_nothing_the_whole_tree_comes_and_then_a_commit_point() {
    let scene = Scene::start();
    scene.write("d/f", "x");
    scene.write("g", "yy");
    let mut copy = Copy::default();
    let events = copy.catch_up(&scene);
    assert_eq!(kinds(&events), ["reset", "rules", "nodes", "problems", "commit"]);
    let Some(FeedEvent::Commit(commit)) = events.last() else { panic!("{events:?}") };
    let head = scene.head();
    assert_eq!((commit.root_digest, commit.files, commit.bytes), (head.root_digest, 2, 3));
}

#[test]
fn from_a_cursor_only_what_changed_comes() {
    let scene = Scene::start();
    for number in 0..100 {
        scene.write(&format!("d/f{number}"), "x");
    }
    let mut copy = Copy::default();
    copy.catch_up(&scene);
    assert_eq!(kinds(&copy.catch_up(&scene)), ["rules", "problems", "commit"], "nothing changed");
    scene.write("d/f7", "changed");
    fs::remove_file(scene.root.join("d/f8")).unwrap();
    let events = copy.catch_up(&scene);
    assert_eq!(kinds(&events), ["rules", "nodes", "problems", "commit"]);
    let Some(FeedEvent::Nodes { changes, .. }) = events.get(1) else { panic!("{events:?}") };
    assert!(changes.len() <= 3, "the two files and their directory: {changes:?}");
    fs::rename(scene.root.join("d"), scene.root.join("e")).unwrap();
    let events = copy.catch_up(&scene);
    let Some(FeedEvent::Nodes { changes, .. }) = events.get(1) else { panic!("{events:?}") };
    assert_eq!(changes.len(), 1, "a renamed directory is one node");
    fs::remove_dir_all(scene.root.join("e")).unwrap();
    scene.write("not-all-is-gone", "x");
    assert_eq!(copy.resets, 1);
}

#[test]
fn a_live_reader_goes_on() {
    let scene = Scene::start();
    scene.barrier().unwrap();
    let mut copy = Copy::default();
    let mut reader = FeedReader::start(scene.tree.index(), &[]).unwrap();
    for round in 0..50 {
        scene.write(&format!("f{}", round % 5), &"x".repeat(round));
        scene.barrier().unwrap();
        while let Step::Events(events) = reader.step(&scene.tree).unwrap() {
            events.into_iter().for_each(|event| copy.take(event));
        }
        copy.assert_complete(&scene);
    }
    assert_eq!(reader.step(&scene.tree).unwrap(), Step::CaughtUp);
    assert!(copy.commits >= 50 && copy.resets == 1, "{copy:?}");
}

#[test]
fn cursors_that_cannot_be_used_are_reset_with_a_reason() {
    let scene = Scene::start();
    scene.write("f", "x");
    let mut good = Copy::default();
    good.catch_up(&scene);
    let mut other_epoch = good.cursor.clone();
    other_epoch[1] ^= 1;
    let mut ahead = good.cursor.clone();
    ahead[24] = 0x7f;
    let mut other_version = good.cursor.clone();
    other_version[0] = 9;
    let longer = [good.cursor.as_slice(), b"x"].concat();
    for (cursor, want) in [
        (vec![], "from the beginning"),
        (other_epoch, "made anew"),
        (ahead, "ahead of the index"),
        (other_version, "not one of this version"),
        (longer, "not one of this version"),
        (b"rubbish".to_vec(), "not one of this version"),
    ] {
        let mut copy = Copy { cursor: cursor.clone(), ..good.clone() };
        let events = copy.catch_up(&scene);
        assert!(reason(&events).is_some_and(|reason| reason.contains(want)), "{cursor:?}: {events:?}");
        assert_eq!(kinds(&events)[0], "reset");
    }
}

#[test]
fn a_cursor_from_before_forgotten_deletions_is_reset() {
    let scene = Scene::start();
    scene.write("f", "x");
    scene.write("g", "x");
    let mut copy = Copy::default();
    copy.catch_up(&scene);
    let mut live = FeedReader::start(scene.tree.index(), &copy.cursor).unwrap();
    fs::remove_file(scene.root.join("f")).unwrap();
    scene.barrier().unwrap();
    assert_eq!(scene.tree.index().prune_tombstones(i64::MAX).unwrap(), 1);
    assert!(scene.tree.index().oldest_cursor().unwrap() > Seq(0));
    let Step::Events(events) = live.step(&scene.tree).unwrap() else { panic!("nothing came") };
    assert!(reason(&events).is_some_and(|reason| reason.contains("forgotten")), "a slow reader: {events:?}");
    let events = copy.catch_up(&scene);
    assert!(reason(&events).is_some_and(|reason| reason.contains("forgotten")), "{events:?}");
    // The new cursor lies behind them.
    assert_eq!(reason(&copy.catch_up(&scene)), None);
}

#[test]
fn a_full_tree_goes_on_at_the_page_where_it_was_cut() {
    let scene = Scene::start();
    let files = PAGE_NODES + PAGE_NODES / 2;
    for number in 0..files {
        scene.write(&format!("d{}/f{number}", number % 10), "x");
    }
    scene.barrier().unwrap();
    let mut copy = Copy::default();
    let mut reader = FeedReader::start(scene.tree.index(), &[]).unwrap();
    let Step::Events(events) = reader.step(&scene.tree).unwrap() else { panic!("nothing came") };
    assert_eq!(kinds(&events), ["reset", "rules", "nodes"]);
    events.into_iter().for_each(|event| copy.take(event));
    let got = copy.nodes.len();
    assert!(got > 0 && got < files, "{got}");
    // Meanwhile something that was sent is deleted, and something is made.
    let sent = copy.nodes.values().find(|node| !node.entry.content.is_dir()).unwrap().id;
    let path = scene.tree.index().path_of(sent).unwrap().unwrap();
    fs::remove_file(scene.root.join(path.as_str())).unwrap();
    // Other bytes: a file of the same ones that gets the freed inode would be the old one, moved.
    scene.write("new", "another content");
    let events = copy.catch_up(&scene);
    assert_eq!(copy.resets, 1, "no second reset");
    assert!(kinds(&events).len() >= 4, "{:?}", kinds(&events));
    assert!(!copy.nodes.contains_key(&sent));
}

#[test]
fn events_stay_small_whatever_the_names_are() {
    let scene = Scene::start();
    for number in 0..3000 {
        scene.write(&format!("{number:0>255}"), "");
    }
    let mut copy = Copy::default();
    let events = copy.catch_up(&scene);
    let sizes: Vec<usize> = events
        .iter()
        .filter_map(|event| match event {
            FeedEvent::Nodes { changes, .. } => Some(changes.len()),
            _ => None,
        })
        .collect();
    assert!(sizes.len() >= 2 && sizes.iter().all(|size| size * 350 <= PAGE_BYTES), "{sizes:?}");
    // And so do those of the feed proper.
    let mut from_zero = FeedReader::start(scene.tree.index(), &[]).unwrap();
    from_zero.position = Position::Feed { seq: Seq(0) };
    from_zero.reset = None;
    let Step::Events(events) = from_zero.step(&scene.tree).unwrap() else { panic!("nothing came") };
    let Some(FeedEvent::Nodes { changes, .. }) = events.last() else { panic!("{:?}", kinds(&events)) };
    assert!(changes.len() * 350 <= PAGE_BYTES);
}

#[test]
fn rules_come_before_the_commit_point_they_belong_to() {
    let scene = Scene::start();
    scene.write("build/f", "x");
    scene.write("g", "x");
    scene.barrier().unwrap();
    let mut copy = Copy::default();
    let mut reader = FeedReader::start(scene.tree.index(), &[]).unwrap();
    let mut read = |copy: &mut Copy| {
        let mut all = Vec::new();
        while let Step::Events(events) = reader.step(&scene.tree).unwrap() {
            all.extend(events);
        }
        all.iter().cloned().for_each(|event| copy.take(event));
        all
    };
    read(&mut copy);
    for text in ["build\n", ""] {
        scene.write(".syncignore", text);
        scene.barrier().unwrap();
        let events = read(&mut copy);
        let at = |wanted: &str| kinds(&events).iter().position(|kind| *kind == wanted);
        assert!(at("rules").unwrap() < at("commit").unwrap(), "{:?}", kinds(&events));
        copy.assert_complete(&scene);
    }
}

#[test]
fn rules_that_are_too_long_are_sent_in_part_and_told() {
    let scene = Scene::start();
    let full = "#234567\n".repeat(crate::rules::MAX_TEXT_BYTES / 8);
    scene.write("d/.syncignore", &full);
    scene.barrier().unwrap();
    let mut reader = FeedReader::start(scene.tree.index(), &[]).unwrap();
    let mut read = || {
        let mut told = (None, None);
        while let Step::Events(events) = reader.step(&scene.tree).unwrap() {
            for event in events {
                match event {
                    FeedEvent::Rules(rules) => told.0 = rules.files.last().map(|file| file.text.clone()),
                    FeedEvent::Problems(problems) => told.1 = Some(problems),
                    _ => {}
                }
            }
        }
        (told.0.unwrap(), told.1.unwrap())
    };
    assert_eq!(read(), (full.clone(), vec![]));
    // What counts is the same as before; that it is not all must be told nevertheless.
    scene.write("d/.syncignore", &format!("{full}more\n"));
    scene.barrier().unwrap();
    let (text, problems) = read();
    assert_eq!(text, full);
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].path.as_str(), problems[0].unknown), ("d/.syncignore", false));
    assert_eq!(scene.tree.problems(), problems);
    scene.write("d/.syncignore", "short\n");
    scene.barrier().unwrap();
    assert_eq!(read(), ("short\n".to_owned(), vec![]));
}
