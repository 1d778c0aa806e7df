//! Large files whose transfer is cut: what has come is not sent again.

mod common;

use std::time::Duration;

use common::{LATER, Lab};
use sync_testkit::{
    eventually,
    programs::{Daemon, Outcome},
    proxy::{Disturbance, Fault, Proxy},
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 48 * MIB;
/// What may be sent again of each file in flight.
const AGAIN: u64 = 4 * MIB;

/// A line to the daemon that is slow enough to be cut in time.
fn slow_line(daemon: &Daemon) -> Proxy {
    let proxy = Proxy::to(daemon.address());
    proxy.delay(Duration::from_millis(2));
    proxy
}

fn wait_for(proxy: &Proxy, bytes: u64) {
    eventually(LATER, || {
        let came = proxy.to_client_bytes();
        if came >= bytes { Ok(()) } else { Err(format!("{came} of {bytes} bytes came")) }
    });
}

#[track_caller]
fn assert_little_is_left(lab: &Lab) {
    let left = lab.target().state_bytes();
    assert!(left < MIB, "{left} bytes are left in .syncd");
}

#[test]
fn a_file_goes_on_where_it_was_when_agent_and_daemon_were_killed() {
    let lab = Lab::new();
    lab.share.bytes("large", SIZE as usize, 1);
    let mut daemon = lab.daemon();
    let proxy = slow_line(&daemon);
    let agent = lab.agent(&proxy.url());
    for part in 1..=2 {
        let mut pull = agent.start(&["pull"]);
        wait_for(&proxy, part * 15 * MIB);
        pull.kill();
        daemon.process().kill();
        daemon.restart();
        proxy.retarget(daemon.address());
    }
    agent.pull().expect(0);
    lab.assert_same();
    let sent = proxy.to_client_bytes();
    assert!(sent <= SIZE + 2 * AGAIN, "{sent} bytes were sent for {SIZE}");
    assert!(sent >= SIZE, "{sent} bytes cannot be the whole file");
    assert_little_is_left(&lab);
}

#[test]
fn a_file_goes_on_where_it_was_when_the_line_is_cut() {
    let lab = Lab::new();
    lab.share.bytes("large", SIZE as usize, 2);
    let daemon = lab.daemon();
    let proxy = slow_line(&daemon);
    let pull = lab.agent(&proxy.url()).start(&["pull", "--json"]);
    for cut in 1..=3 {
        wait_for(&proxy, cut * 10 * MIB);
        proxy.cut_once();
    }
    let outcome = Outcome::read(pull.finish(LATER)).expect(0);
    lab.assert_same();
    let sent = proxy.to_client_bytes();
    assert!(sent <= SIZE + 3 * AGAIN, "{sent} bytes were sent for {SIZE}");
    assert_eq!((outcome.count("synced"), outcome.count("bytes_total")), (1, SIZE));
}

/// Never is a connection there for 700 KB, so nothing comes that needs so much at once.
#[test]
fn a_line_that_is_cut_all_the_time_brings_a_large_file_all_the_same() {
    const EACH: u64 = 3 * MIB;
    let lab = Lab::new();
    lab.share.bytes("large", EACH as usize, 6);
    let daemon = lab.daemon();
    let proxy = Proxy::to(daemon.address());
    proxy.disturb(Disturbance { fault: Fault::Cut, mean_bytes: 350_000, seed: 4 });
    let pull = lab.agent(&proxy.url()).start(&["pull", "--json"]);
    let outcome = Outcome::read(pull.finish(LATER)).expect(0);
    lab.assert_same();
    assert!(proxy.faults() > 4, "{} cuts", proxy.faults());
    assert_eq!((outcome.count("synced"), outcome.count("bytes_total")), (1, EACH));
    let sent = proxy.to_client_bytes();
    assert!((EACH..4 * EACH).contains(&sent), "{sent} bytes were sent for {EACH}");
    assert_little_is_left(&lab);
}

/// What fails in the middle of a transfer. The other program knows nothing of it.
#[derive(Debug, Clone, Copy)]
enum Fails {
    Agent,
    Daemon,
}

/// Several files in flight, and only one of the two programs ends: each file goes on, and the totals are those of the whole.
#[test]
fn each_of_several_files_goes_on_whichever_side_ended() {
    const FILES: u64 = 4;
    const EACH: u64 = 16 * MIB;
    for fails in [Fails::Agent, Fails::Daemon] {
        let lab = Lab::new();
        for file in 0..FILES {
            lab.share.bytes(format!("large {file}"), EACH as usize, 10 + file);
        }
        let mut daemon = lab.daemon();
        let proxy = slow_line(&daemon);
        let agent = lab.agent(&proxy.url());
        let mut pull = agent.start(&["pull"]);
        wait_for(&proxy, 24 * MIB);
        match fails {
            Fails::Agent => {
                pull.kill();
                pull = agent.start(&["pull"]);
            }
            Fails::Daemon => {
                daemon.process().kill();
                daemon.restart();
                proxy.retarget(daemon.address());
            }
        }
        let outcome = Outcome::read(pull.finish(LATER)).expect(0);
        lab.assert_same();
        let sent = proxy.to_client_bytes();
        assert!(sent >= FILES * EACH, "{fails:?}: {sent} bytes cannot be all files");
        assert!(sent <= FILES * (EACH + AGAIN), "{fails:?}: {sent} bytes were sent for {}", FILES * EACH);
        assert!(
            sent < FILES * EACH + 24 * MIB,
            "{fails:?}: {sent} bytes: nothing of what had come was of use"
        );
        let totals = (outcome.count("synced"), outcome.count("bytes_total"));
        assert_eq!(totals, (FILES, FILES * EACH), "{fails:?}");
        if let Fails::Agent = fails {
            let received = outcome.count("bytes_received");
            assert!(received < FILES * EACH - 8 * MIB, "{received} bytes were received by the second run");
        }
        assert_little_is_left(&lab);
    }
}

#[test]
fn what_came_of_a_content_that_the_share_has_no_more_is_not_sent_again() {
    let lab = Lab::new();
    lab.share.bytes("large", SIZE as usize, 3);
    let daemon = lab.daemon();
    let proxy = slow_line(&daemon);
    let agent = lab.agent(&proxy.url());
    let mut pull = agent.start(&["pull"]);
    wait_for(&proxy, 20 * MIB);
    pull.kill();
    let mut bytes = lab.share.read("large");
    bytes[100..200].fill(1);
    bytes.insert(5 << 20, b'x');
    lab.share.file("large", &bytes);
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    let sent = proxy.to_client_bytes();
    assert!(sent <= SIZE + AGAIN, "{sent} bytes were sent for {SIZE}");
    assert!(sent >= SIZE, "{sent} bytes cannot be the whole file");
    assert_eq!((outcome.count("synced"), outcome.count("bytes_total")), (1, bytes.len() as u64));
    assert_little_is_left(&lab);
}

#[test]
fn a_partial_of_a_content_that_the_share_has_no_more_does_no_harm() {
    let lab = Lab::new();
    lab.share.bytes("large", SIZE as usize, 3);
    let daemon = lab.daemon();
    let proxy = slow_line(&daemon);
    let agent = lab.agent(&proxy.url());
    let mut pull = agent.start(&["pull"]);
    wait_for(&proxy, 15 * MIB);
    pull.kill();
    lab.share.bytes("large", SIZE as usize, 4);
    agent.pull().expect(0);
    lab.assert_same();
    assert_little_is_left(&lab);
}

#[test]
fn a_partial_that_was_damaged_costs_one_more_attempt() {
    let lab = Lab::new();
    lab.share.bytes("large", SIZE as usize, 5);
    let mut daemon = lab.daemon();
    let proxy = slow_line(&daemon);
    let agent = lab.agent(&proxy.url());
    let mut pull = agent.start(&["pull"]);
    wait_for(&proxy, 15 * MIB);
    pull.kill();
    damage_partial(&lab);
    daemon.process().kill();
    daemon.restart();
    proxy.retarget(daemon.address());
    let before = proxy.to_client_bytes();
    let outcome = agent.pull().expect(0);
    lab.assert_same();
    let sent = proxy.to_client_bytes() - before;
    // What was missing, and then all of it or what the damaged one lacked.
    assert!((SIZE - 16 * MIB..2 * SIZE).contains(&sent), "{sent} bytes were sent for {SIZE}");
    assert_eq!((outcome.count("synced"), outcome.count("bytes_total")), (1, SIZE));
    let before = proxy.to_client_bytes();
    agent.pull().expect(0);
    assert!(proxy.to_client_bytes() - before < MIB, "it was fetched once");
}

/// Turns one bit in the first MiB of the only partial, as a power cut may leave it.
#[expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's own target, of which nobody else knows"
)]
fn damage_partial(lab: &Lab) {
    let dir = lab.target().path(".syncd/staging/partial");
    let partials: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [partial] = partials.as_slice() else { panic!("{partials:?}") };
    let mut bytes = std::fs::read(partial).unwrap();
    bytes[12_345] ^= 1;
    std::fs::write(partial, bytes).unwrap();
}
