//! Compression on slow lines, and none where it would not help.

mod common;

use std::time::{Duration, Instant};

use common::Lab;
use sync_testkit::{Link, proxy::Proxy, rng::Rng};

const MIB: u64 = 1 << 20;

/// A line of 100 Mbit/s.
fn slow() -> Link {
    Link::new(Duration::from_millis(10), 100_000_000)
}

/// Something like a source file.
fn source(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "let", "match", "fn", "self", "Result", "Option", "Some", "return", "value", "index", "buffer",
        "length", "error", "push", "iter", "state",
    ];
    let mut text = Vec::with_capacity(bytes + 100);
    while text.len() < bytes {
        let [a, b] = [rng.below(16), rng.below(16)].map(|word| WORDS[word]);
        text.extend_from_slice(format!("        {a}.{b}({}, &{a}_{b})?;\n", rng.below(10_000)).as_bytes());
    }
    text
}

/// A share with text in many small files and in a large one. Answers how many bytes.
fn fill_with_text(lab: &Lab) -> u64 {
    let mut rng = Rng::new(5);
    let mut bytes = 0;
    for number in 0..1200 {
        let size = 2_000 + rng.below(20_000);
        let text = source(&mut rng, size);
        bytes += text.len() as u64;
        lab.share.file(format!("src {}/file {number}.rs", number % 40), text);
    }
    let text = source(&mut rng, 12 << 20);
    bytes += text.len() as u64;
    lab.share.file("all.rs", text);
    bytes
}

/// A pull into a new target over that line: the seconds it took, and the bytes that came.
#[track_caller]
fn pull(lab: &Lab, server: &str, line: Option<Link>, (target, compression): (&str, &str)) -> (f64, u64) {
    let proxy = line.map_or_else(|| Proxy::to(server), |line| Proxy::over(line, server));
    let agent = lab.agent_into(&proxy.url(), target).args(["--compression", compression]);
    let began = Instant::now();
    let outcome = agent.pull().expect(0);
    let took = began.elapsed().as_secs_f64();
    sync_testkit::tree::assert_same(lab.share.root(), &lab.path(target));
    let came = outcome.count("bytes_received");
    assert!(came <= proxy.to_client_bytes(), "{came} bytes came of {}", proxy.to_client_bytes());
    (took, came)
}

#[test]
fn text_over_a_slow_line_comes_in_fewer_bytes_and_faster() {
    let lab = Lab::new();
    let bytes = fill_with_text(&lab);
    let daemon = lab.daemon();
    let plain = pull(&lab, daemon.address(), Some(slow()), ("off", "off"));
    assert!(plain.1 >= bytes, "{plain:?}");
    let compressed = pull(&lab, daemon.address(), Some(slow()), ("auto", "auto"));
    assert!(compressed.1 < bytes * 6 / 10, "{compressed:?} for {bytes} bytes, {plain:?} without");
    assert!(compressed.0 < plain.0, "{compressed:?} for {bytes} bytes, {plain:?} without");
}

#[test]
fn on_a_fast_line_only_what_is_asked_to_be_is_compressed() {
    let lab = Lab::new();
    let bytes = fill_with_text(&lab);
    let daemon = lab.daemon();
    let auto = pull(&lab, daemon.address(), None, ("auto", "auto"));
    // A machine that does many other things may look slow for a moment.
    assert!(auto.1 > bytes * 7 / 10, "{auto:?} of {bytes} bytes");
    let on = pull(&lab, daemon.address(), None, ("on", "on"));
    assert!(on.1 < bytes / 2, "{on:?} of {bytes} bytes");
    // A daemon that may not, does not.
    let other = Lab::new();
    other.share.file("text", "one line like the other\n".repeat(100_000));
    let daemon = other.spec().env("SYNCD_NETWORK__COMPRESSION", "false").start();
    let forbidden = pull(&other, daemon.address(), None, ("on", "on"));
    assert!(forbidden.1 >= 2_400_000, "{forbidden:?}");
}

#[test]
fn what_does_not_compress_is_not_made_larger() {
    let lab = Lab::new();
    for number in 0..100 {
        lab.share.bytes(format!("picture {number}"), 40_000, number);
    }
    lab.share.bytes("film", 8 << 20, 1000);
    let daemon = lab.daemon();
    let plain = pull(&lab, daemon.address(), None, ("off", "off"));
    let on = pull(&lab, daemon.address(), Some(slow()), ("on", "on"));
    assert!(on.1 < plain.1 + MIB / 16, "{on:?} instead of {plain:?}");
}
