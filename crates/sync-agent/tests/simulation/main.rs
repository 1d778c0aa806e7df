//! The whole engine, simulated: against a share in memory, over a network that fails, on a disk that fails and goes off in the
//! middle, while both sides are changed — everything by a seed, on one thread and by a clock of its own, so that a seed that
//! fails can be repeated.
//!
//! `SYNCD_SEED=N cargo test -p sync-agent --features failpoints --test simulation` repeats one seed and tells its story;
//! `SYNCD_SEEDS=N` runs that many.
#![cfg(feature = "failpoints")]

mod editor;
mod story;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use story::Story;
use sync_testkit::seeds::{SEED, seeds, setting};

/// Seeds of a usual run.
const SEEDS: u64 = 1500;
/// No seed takes so long by a real clock.
const STUCK: Duration = Duration::from_secs(120);
/// So many lines before the end of its story are shown of a seed that fails.
const SHOWN: usize = 60;

/// Looks at trees are walked by one thread: so they are walked in the same order each time.
fn one_walker() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rayon::ThreadPoolBuilder::new().num_threads(1).build_global()));
}

/// Plays a seed. Answers its story, and what went wrong.
fn play(seed: u64) -> (Vec<String>, Result<(), String>) {
    one_walker();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let story = Story::new(seed, setting::<u64>(SEED).is_some());
    let world = story.world();
    let played =
        catch_unwind(AssertUnwindSafe(|| runtime.expect("a runtime can be made").block_on(story.play())));
    let played = played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    });
    (world.log(), played)
}

/// Ends the test if a seed hangs: nothing else would say which.
fn watched<T>(seed: u64, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if waiting.recv_timeout(STUCK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{SEED}={seed} hangs");
            std::process::abort();
        }
    });
    let value = work();
    drop(done);
    watch.join().expect("the watch does not panic");
    value
}

/// `RUST_LOG=sync_agent=trace` shows what the engine plans.
fn logging() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(filter)
        .try_init();
}

#[test]
fn every_seed_ends_equal_and_loses_nothing() {
    logging();
    let seeds = seeds(1..=SEEDS);
    let (count, began) = (seeds.clone().count(), Instant::now());
    let (next, failures) = (AtomicU64::new(*seeds.start()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > *seeds.end() || failures.lock().expect("nobody panics").len() >= 10 {
                        return;
                    }
                    let (log, played) = watched(seed, || play(seed));
                    if let Err(error) = played {
                        let shown = log[log.len().saturating_sub(SHOWN)..].join("\n");
                        eprintln!("{shown}\n{SEED}={seed}: {error}\n");
                        failures.lock().expect("nobody panics").push(format!("{SEED}={seed}: {error}"));
                    }
                }
            });
        }
    });
    let took = began.elapsed();
    eprintln!(
        "{count} seeds in {:.1} s, {:.0} a second",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64()
    );
    let failures = failures.into_inner().expect("nobody panics");
    assert!(failures.is_empty(), "{} seeds failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in seeds(1..=40) {
        let ((one, _), (two, _)) = (watched(seed, || play(seed)), watched(seed, || play(seed)));
        let differ = one.iter().zip(&two).position(|(one, two)| one != two);
        if let Some(at) = differ {
            panic!(
                "seed {seed} differs in line {at}:\n{}\n{}\n{}",
                one[at.saturating_sub(3)..at].join("\n"),
                one[at],
                two[at]
            );
        }
        assert_eq!(one.len(), two.len(), "seed {seed}");
    }
}
