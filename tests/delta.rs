//! Large files of which a part changed: only what the old version lacks is sent.

mod common;

use std::time::Duration;

use common::{LATER, Lab, fill};
use sync_core::{Digest, chunk::ChunkHash};
use sync_testkit::{eventually, programs::Agent, proxy::Proxy};
use sync_tree::{chunks::chunk_bytes, rooted::Root, shelf::Shelf};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SIZE: usize = 24 << 20;
/// What describing a file of this size, and asking, may cost.
const TALK: u64 = 256 * KIB;

/// A share with one large file that the target has, and an agent behind a proxy that counts.
struct Changed {
    lab: Lab,
    agent: Agent,
    proxy: Proxy,
    _daemon: sync_testkit::programs::Daemon,
    bytes: Vec<u8>,
}

impl Changed {
    fn new() -> Self {
        let lab = Lab::new();
        fill(&lab.share, 5);
        lab.share.bytes("large", SIZE, 7);
        let daemon = lab.daemon();
        let proxy = Proxy::to(daemon.address());
        let agent = lab.agent(&proxy.url());
        agent.pull().expect(0);
        let bytes = lab.share.read("large");
        Self { lab, agent, proxy, _daemon: daemon, bytes }
    }

    /// Writes what `bytes` is now into the share and pulls. Answers how many bytes that sent.
    #[track_caller]
    fn sent(&self) -> u64 {
        self.lab.share.file("large", &self.bytes);
        let before = self.proxy.to_client_bytes();
        let outcome = self.agent.pull().expect(0);
        self.lab.assert_same();
        assert_eq!(outcome.count("bytes_total"), self.bytes.len() as u64);
        self.proxy.to_client_bytes() - before
    }

    /// What the agent keeps about the target between its runs.
    fn shelf(&self) -> Shelf {
        Shelf::new(Root::open(&self.lab.path("target/.syncd")).expect("the agent made it").dir())
    }
}

#[test]
fn of_a_file_that_changed_here_and_there_only_that_is_sent() {
    let mut changed = Changed::new();
    for at in [0, 5 << 20, (5 << 20) + 300_000, SIZE - 70_000] {
        changed.bytes[at..at + 60_000].fill(at as u8 | 1);
    }
    let sent = changed.sent();
    assert!((3 * 60_000..MIB + TALK).contains(&sent), "{sent} bytes were sent");
    assert!(changed.lab.target().trash().is_empty(), "the old version was the share's");
}

/// What the daemon knows of the version before, and what the target knows of the one it has, is used from the second change on.
#[test]
fn a_file_that_changes_again_and_again_costs_no_more_than_its_changes() {
    let mut changed = Changed::new();
    for turn in 1..=4_u8 {
        let at = usize::from(turn) * 5_000_000;
        match turn {
            1 | 3 => changed.bytes[at..at + 60_000].fill(turn),
            2 => drop(changed.bytes.splice(at..at, [turn; 60_001])),
            _ => drop(changed.bytes.drain(at..at + 60_001)),
        }
        let sent = changed.sent();
        assert!(sent < 200_000 + TALK, "{sent} bytes were sent in turn {turn}");
    }
}

#[test]
fn what_is_put_in_at_the_front_moves_everything_and_costs_nothing() {
    let mut changed = Changed::new();
    changed.bytes.insert(0, b'x');
    let sent = changed.sent();
    assert!(sent < TALK, "{sent} bytes were sent for one");
    // From then on both sides know the version before, and even the list of all chunks is not sent.
    changed.bytes.insert(0, b'y');
    let list = chunk_bytes(&changed.bytes).len() as u64 * 18;
    let sent = changed.sent();
    assert!(sent < list, "{sent} bytes were sent for one more, and the list has {list}");
    changed.bytes.drain(1000..2_000_000);
    let sent = changed.sent();
    assert!(sent < TALK, "{sent} bytes were sent for a cut");
}

#[test]
fn of_a_log_that_grew_only_the_end_is_sent() {
    let mut changed = Changed::new();
    changed.bytes.extend((0..300_000_u32).map(|byte| (byte / 3) as u8));
    let sent = changed.sent();
    assert!(sent < 300_000 + TALK, "{sent} bytes were sent");
}

#[test]
fn a_file_that_is_all_new_is_sent_whole_and_so_is_every_file_if_that_is_asked_for() {
    let mut changed = Changed::new();
    changed.bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
    let sent = changed.sent();
    assert!((SIZE as u64..SIZE as u64 + MIB).contains(&sent), "{sent} bytes were sent");
    let before = changed.proxy.to_client_bytes();
    changed.agent.json(&["pull", "--full"]).expect(0);
    assert!(changed.proxy.to_client_bytes() - before >= SIZE as u64, "it came from the target itself");
    changed.lab.assert_same();
}

/// Putting together costs more than it saves if little stayed, and asking does for files below a MiB.
#[test]
fn a_file_of_which_little_stayed_is_sent_whole_and_so_is_a_small_one() {
    let mut changed = Changed::new();
    changed.bytes[SIZE / 16..].iter_mut().for_each(|byte| *byte ^= 0x55);
    let sent = changed.sent();
    assert!(sent >= SIZE as u64, "{sent} bytes were sent");
    changed.bytes[SIZE / 4..].iter_mut().for_each(|byte| *byte ^= 0x55);
    let sent = changed.sent();
    assert!((SIZE as u64 * 5 / 8..SIZE as u64 * 7 / 8).contains(&sent), "{sent} bytes were sent");

    let small = 900 << 10;
    for more in ["", "x"] {
        changed.lab.share.bytes("small", small, 11);
        if !more.is_empty() {
            changed.lab.share.append("small", more);
        }
        let before = changed.proxy.to_client_bytes();
        changed.agent.pull().expect(0);
        changed.lab.assert_same();
        let sent = changed.proxy.to_client_bytes() - before;
        assert!(sent >= small as u64, "{sent} bytes were sent");
    }
}

#[test]
fn an_old_version_that_was_edited_here_serves_too_and_is_kept() {
    let mut changed = Changed::new();
    let mut edited = changed.bytes.clone();
    edited[9 << 20..10 << 20].fill(3);
    changed.lab.target().file("large", &edited);
    changed.bytes[100..200].fill(4);
    let sent = changed.sent();
    assert!((MIB..2 * MIB).contains(&sent), "{sent} bytes were sent");
    let trash = changed.lab.target().trash();
    assert_eq!(trash.len(), 1, "the edit: {trash:?}");
}

/// The ways in which a changed file comes in another place than the old one, and what becomes of that.
#[test]
fn a_changed_file_in_another_place_is_made_from_the_old_one() {
    type Arrive = fn(&Changed, &[u8]);
    let ways: [(&str, Arrive); 4] = [
        ("moved, then edited", |changed, bytes| {
            changed.lab.share.rename("large", "dir 1/other name");
            changed.lab.share.file("dir 1/other name", bytes);
        }),
        ("written anew in another directory", |changed, bytes| {
            changed.lab.share.remove("large");
            changed.lab.share.file("dir 1/large", bytes);
        }),
        ("renamed while it was written anew", |changed, bytes| {
            changed.lab.share.remove("large");
            changed.lab.share.file("any", bytes);
        }),
        ("the old one stays", |changed, bytes| drop(changed.lab.share.file("large2", bytes))),
    ];
    for (way, arrive) in ways {
        let mut changed = Changed::new();
        changed.bytes[5_000_000..5_100_000].fill(3);
        arrive(&changed, &changed.bytes);
        let before = changed.proxy.to_client_bytes();
        changed.agent.pull().expect(0);
        changed.lab.assert_same();
        let sent = changed.proxy.to_client_bytes() - before;
        assert!((100_000..300_000 + TALK).contains(&sent), "{way}: {sent} bytes were sent");
        assert!(changed.lab.target().trash().is_empty(), "{way}: the old one was the share's");
    }
}

/// What is to be removed is there until all that may need it is complete, also over a cut, and then it goes.
#[test]
fn an_old_file_in_another_place_outlives_a_cut_and_no_more() {
    let mut changed = Changed::new();
    let half = SIZE / 2;
    changed.bytes[..half].iter_mut().for_each(|byte| *byte ^= 0x55);
    changed.lab.share.remove("large");
    changed.lab.share.file("dir 1/large", &changed.bytes);
    changed.proxy.delay(Duration::from_millis(2));
    let before = changed.proxy.to_client_bytes();
    let sent = || changed.proxy.to_client_bytes() - before;
    let mut pull = changed.agent.start(&["pull"]);
    eventually(LATER, || match sent() {
        sent if sent > half as u64 / 2 => Ok(()),
        sent => Err(format!("{sent} bytes came")),
    });
    pull.kill();
    assert!(changed.lab.target().has("large"), "it will be needed");
    changed.agent.pull().expect(0);
    changed.lab.assert_same();
    let sent = sent();
    let most = half as u64 + 4 * MIB + TALK;
    assert!((half as u64..most).contains(&sent), "{sent} bytes were sent for {half}");
}

#[test]
fn what_only_has_the_name_of_a_file_that_goes_costs_no_content() {
    let changed = Changed::new();
    changed.lab.share.remove("large");
    changed.lab.share.bytes("dir 1/large", SIZE, 99);
    let before = changed.proxy.to_client_bytes();
    changed.agent.pull().expect(0);
    changed.lab.assert_same();
    let sent = changed.proxy.to_client_bytes() - before;
    assert!((SIZE as u64..SIZE as u64 + MIB).contains(&sent), "{sent} bytes were sent");
}

/// A list is found again by the next process, missed by nobody, and a wrong one costs time and nothing else.
#[test]
fn what_the_version_here_is_made_of_is_kept_and_verified_when_it_is_used() {
    let mut changed = Changed::new();
    let shelf = changed.shelf();
    let kept = |bytes: &[u8]| shelf.get(bytes.len() as u64, &Digest::of(bytes));
    assert_eq!(kept(&changed.bytes), None, "it came whole");
    changed.bytes[100] ^= 1;
    let sent = changed.sent();
    assert!(sent < TALK, "{sent} bytes were sent");
    let chunks = chunk_bytes(&changed.bytes);
    assert_eq!(kept(&changed.bytes), Some(chunks.clone()));

    // It is the list that is asked, not the file: in this one all is found in the wrong place.
    let unknown: Vec<_> =
        chunks.iter().map(|chunk| sync_core::Chunk { hash: ChunkHash([7; 16]), ..*chunk }).collect();
    let digest = Digest::of(&changed.bytes);
    shelf.put(&digest, &unknown);
    changed.bytes[200] ^= 1;
    let sent = changed.sent();
    assert!(sent >= SIZE as u64, "{sent} bytes were sent: what was kept was not used");
    assert_eq!(kept(&changed.bytes), None, "it was told by the wrong one");
    assert_eq!(shelf.get(SIZE as u64, &digest), None, "that content is not here any more");

    // What is found in this one is something else.
    let mut mistaken = chunk_bytes(&changed.bytes);
    for number in 10..mistaken.len() {
        mistaken[number].hash = chunks[number - 1].hash;
    }
    shelf.put(&Digest::of(&changed.bytes), &mistaken);
    changed.bytes[300] ^= 1;
    let sent = changed.sent();
    assert!(sent >= SIZE as u64, "{sent} bytes were sent");
    let trash = changed.lab.target().trash();
    assert!(trash.is_empty(), "{trash:?}");

    shelf.remove(&Digest::of(&changed.bytes));
    changed.bytes[400] ^= 1;
    let sent = changed.sent();
    assert!(sent < TALK, "{sent} bytes were sent: without a list the file is asked");
}
