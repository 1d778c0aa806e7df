//! Memory and descriptors stay bounded, whatever the tree holds.
//!
//! Sizes are small here, because this build is not optimised; `SYNCD_MEMORY_ENTRIES=100000` is what the promise is about.

mod common;

use std::{env, time::Duration};

use common::{LATER, Lab, SOON, fill};
use sync_testkit::{
    eventually,
    programs::{open_files, peak_rss_bytes, rss_bytes},
};

const LIMIT_BYTES: u64 = 150 << 20;
const DEFAULT_ENTRIES: usize = 20_000;

fn entries() -> usize {
    env::var("SYNCD_MEMORY_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_ENTRIES)
}

#[test]
fn both_programs_stay_small_with_many_entries() {
    let lab = Lab::new();
    for number in 0..entries() {
        lab.share.file(format!("dir {}/{}/a file with some name {number}", number / 1000, number % 10), "x");
    }
    let daemon = lab.daemon();
    let mut follower = lab.agent(&daemon.url()).follow();
    follower.wait_for_event("caught_up", Duration::from_secs(180));
    lab.wait_same(LATER);
    let (serving, following) = (rss_bytes(daemon.pid()), peak_rss_bytes(follower.process().pid()));
    eprintln!("daemon {} MiB, agent at most {} MiB", serving >> 20, following >> 20);
    assert!(serving < LIMIT_BYTES, "the daemon holds {} MiB", serving >> 20);
    assert!(following < LIMIT_BYTES, "the agent had {} MiB", following >> 20);
}

#[test]
fn a_large_file_passes_through_a_bounded_window() {
    let lab = Lab::new();
    fill(&lab.share, 5);
    let (daemon, mut follower) = lab.followed();
    lab.share.sparse("large", 400 << 20);
    lab.share.bytes("random", 60 << 20, 1);
    lab.wait_same(LATER);
    let (serving, following) = (peak_rss_bytes(daemon.pid()), peak_rss_bytes(follower.process().pid()));
    eprintln!("daemon at most {} MiB, agent at most {} MiB", serving >> 20, following >> 20);
    assert!(
        serving < LIMIT_BYTES && following < LIMIT_BYTES,
        "{} and {} MiB",
        serving >> 20,
        following >> 20
    );
}

#[test]
fn agents_that_come_and_go_leave_nothing_in_the_daemon() {
    let lab = Lab::new();
    fill(&lab.share, 20);
    let daemon = lab.daemon();
    let agent = lab.agent(&daemon.url());
    agent.pull().expect(0);
    let before = open_files(daemon.pid());
    for round in 0..20 {
        if round % 2 == 0 {
            agent.pull().expect(0);
        } else {
            let mut follower = agent.follow();
            follower.caught_up();
            follower.process().kill();
        }
    }
    eventually(SOON, || match open_files(daemon.pid()) {
        now if now <= before + 5 => Ok(()),
        now => Err(format!("{now} descriptors are open; there were {before}")),
    });
}
