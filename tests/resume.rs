//! Large files whose transfer is cut: what has come is not sent again.

mod common;

use std::time::Duration;

use common::{LATER, Lab};
use sync_testkit::{
    eventually,
    programs::{Daemon, Outcome},
    proxy::Proxy,
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
    let left = lab.target().state_bytes();
    assert!(left < MIB, "{left} bytes are left in .syncd");
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
}
