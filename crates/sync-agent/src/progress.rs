//! How far a run has come, on stderr: bars on a terminal, a plain line now and then elsewhere, nothing with `-q`.
//!
//! The engine reports from many threads and for every file; counting is atomic, and only what is to be drawn takes a lock.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sync_cli::{logging::BoxMakeWriter, show};
use sync_core::{TreePath, name::escape};

use crate::engine::Phase;

/// Files above this size have a bar of their own while they are in flight.
const OWN_BAR_ABOVE: u64 = 1 << 20;
/// Own bars at a time; more would push the rest off the screen.
const OWN_BARS: usize = 16;
/// How often a plain line comes.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often bars that nothing happens to are drawn.
const TICK: Duration = Duration::from_millis(200);
/// The count of files is written anew at most so often.
const MESSAGE_EVERY: Duration = Duration::from_millis(80);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Bars,
    Lines,
    Nothing,
}

/// Whether a person wants to see progress at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// In the way that fits stderr.
    Yes,
    /// `-q`.
    No,
}

/// What is shown of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    show: Show,
    bars: MultiProgress,
    drawn: Mutex<Drawn>,
    /// Own bars that are there: small files ask nothing else.
    own_bars: AtomicUsize,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    planned_files: AtomicU64,
    planned_bytes: AtomicU64,
}

#[derive(Debug)]
struct Drawn {
    total: Option<ProgressBar>,
    files: HashMap<TreePath, ProgressBar>,
    phase: Phase,
    /// Something has begun and is not finished.
    active: bool,
    began: Instant,
    /// The last plain line, or the last count of files.
    told: Instant,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Snapshot {
    files: u64,
    bytes: u64,
    planned_files: u64,
    planned_bytes: u64,
    took: Duration,
}

impl Progress {
    pub(crate) fn new(wanted: Wanted) -> Self {
        let show = match wanted {
            Wanted::No => Show::Nothing,
            Wanted::Yes if io::stderr().is_terminal() => Show::Bars,
            Wanted::Yes => Show::Lines,
        };
        let now = Instant::now();
        let drawn = Drawn {
            total: None,
            files: HashMap::new(),
            phase: Phase::Connecting,
            active: false,
            began: now,
            told: now,
        };
        Self {
            show,
            bars: MultiProgress::new(),
            drawn: Mutex::new(drawn),
            own_bars: AtomicUsize::new(0),
            counts: Counts::default(),
        }
    }

    /// A way to stderr for the log that does not tear the bars.
    pub(crate) fn log_writer(&self) -> Option<BoxMakeWriter> {
        let bars = self.bars.clone();
        (self.show == Show::Bars).then(|| BoxMakeWriter::new(move || Around(bars.clone())))
    }

    /// Does something that writes to the terminal, with the bars out of the way.
    pub(crate) fn around<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.show == Show::Bars { self.bars.suspend(write) } else { write() }
    }

    pub(crate) fn phase(&self, phase: Phase) {
        let mut drawn = self.drawn();
        drawn.phase = phase;
        if !std::mem::replace(&mut drawn.active, true) {
            // What is over before its first line is due is not worth one.
            drawn.told = Instant::now();
        }
        match self.show {
            Show::Bars => {
                let counted = phase == Phase::Transferring && self.counts.planned_files.load(Relaxed) > 0;
                let words =
                    if counted { self.snapshot(&drawn).files_words() } else { phase_words(phase).into() };
                let total = drawn.total.get_or_insert_with(|| self.new_total());
                total.set_message(words);
            }
            Show::Lines => self.tell_now_and_then(&mut drawn),
            Show::Nothing => {}
        }
    }

    pub(crate) fn planned(&self, files: u64, bytes: u64) {
        // A later round plans what is left of the earlier ones.
        let counts = &self.counts;
        self.planned_in_all(counts.files.load(Relaxed) + files, counts.bytes.load(Relaxed) + bytes);
    }

    pub(crate) fn planned_in_all(&self, files: u64, bytes: u64) {
        let counts = &self.counts;
        counts.planned_files.store(files, Relaxed);
        counts.planned_bytes.store(bytes, Relaxed);
        let mut drawn = self.drawn();
        if counts.files.load(Relaxed) == 0 {
            drawn.began = Instant::now();
        }
        if self.show == Show::Bars && files > counts.files.load(Relaxed) {
            let words = self.snapshot(&drawn).files_words();
            let total = drawn.total.get_or_insert_with(|| self.new_total());
            total.set_style(style(
                "{msg} [{bar:24}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            ));
            total.set_length(counts.planned_bytes.load(Relaxed));
            total.set_position(counts.bytes.load(Relaxed));
            total.set_message(words);
        }
    }

    pub(crate) fn file_started(&self, path: &TreePath, size: u64) {
        if self.show != Show::Bars || size <= OWN_BAR_ABOVE || self.own_bars.load(Relaxed) >= OWN_BARS {
            return;
        }
        let bar = ProgressBar::new(size)
            .with_style(style(
                "  {wide_msg} [{bar:24}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
            ))
            .with_message(escape(path.as_str()).into_owned());
        let bar = self.bars.add(bar);
        // A file that begins again takes the place of its first attempt.
        let old = self.drawn().files.insert(path.clone(), bar);
        match old {
            Some(old) => self.bars.remove(&old),
            None => drop(self.own_bars.fetch_add(1, Relaxed)),
        }
    }

    pub(crate) fn bytes(&self, path: &TreePath, count: u64) {
        self.counts.bytes.fetch_add(count, Relaxed);
        match self.show {
            Show::Nothing => {}
            Show::Lines => self.tell_now_and_then(&mut self.drawn()),
            Show::Bars => {
                let drawn = self.drawn();
                if let Some(total) = &drawn.total {
                    total.inc(count);
                }
                if let Some(bar) = drawn.files.get(path) {
                    bar.inc(count);
                }
            }
        }
    }

    pub(crate) fn file_done(&self, path: &TreePath) {
        self.counts.files.fetch_add(1, Relaxed);
        match self.show {
            Show::Nothing => {}
            Show::Lines => self.tell_now_and_then(&mut self.drawn()),
            Show::Bars => {
                let mut drawn = self.drawn();
                if self.own_bars.load(Relaxed) > 0
                    && let Some(bar) = drawn.files.remove(path)
                {
                    self.own_bars.fetch_sub(1, Relaxed);
                    self.bars.remove(&bar);
                }
                if drawn.told.elapsed() >= MESSAGE_EVERY {
                    drawn.told = Instant::now();
                    let words = self.snapshot(&drawn).files_words();
                    if let Some(total) = &drawn.total {
                        total.set_message(words);
                    }
                }
            }
        }
    }

    /// Takes all bars away, and begins anew with whatever is planned next.
    pub(crate) fn finish(&self) {
        let mut drawn = self.drawn();
        drawn.active = false;
        drawn.files.drain().for_each(|(_, bar)| self.bars.remove(&bar));
        if let Some(total) = drawn.total.take() {
            total.finish_and_clear();
            self.bars.remove(&total);
        }
        self.own_bars.store(0, Relaxed);
        let Counts { files, bytes, planned_files, planned_bytes } = &self.counts;
        [files, bytes, planned_files, planned_bytes].into_iter().for_each(|count| count.store(0, Relaxed));
    }

    fn new_total(&self) -> ProgressBar {
        let bar = self.bars.insert(0, ProgressBar::no_length().with_style(style("{spinner} {msg}")));
        bar.enable_steady_tick(TICK);
        bar
    }

    fn tell_now_and_then(&self, drawn: &mut Drawn) {
        if drawn.told.elapsed() >= LINE_EVERY {
            drawn.told = Instant::now();
            let line = match drawn.phase {
                Phase::Transferring => plain_line(&self.snapshot(drawn)),
                phase => phase_words(phase).to_owned(),
            };
            eprintln!("{line}");
        }
    }

    fn snapshot(&self, drawn: &Drawn) -> Snapshot {
        Snapshot {
            files: self.counts.files.load(Relaxed),
            bytes: self.counts.bytes.load(Relaxed),
            planned_files: self.counts.planned_files.load(Relaxed),
            planned_bytes: self.counts.planned_bytes.load(Relaxed),
            took: drawn.began.elapsed(),
        }
    }

    fn drawn(&self) -> MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates of this file are right")
        .progress_chars("=> ")
}

fn phase_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Connecting => "connecting",
        Phase::Listing => "reading what the share holds",
        Phase::Scanning => "looking at the target",
        Phase::Planning => "comparing",
        Phase::Transferring => "transferring",
        Phase::Finishing => "finishing",
    }
}

impl Snapshot {
    fn files_words(&self) -> String {
        if self.planned_files == 0 {
            return format!("{} files", self.files);
        }
        format!("{} of {} files", self.files, self.planned_files.max(self.files))
    }
}

/// The line that comes where there is no terminal.
fn plain_line(now: &Snapshot) -> String {
    let mut line = format!("{}, {}", now.files_words(), show::bytes(now.bytes));
    if now.planned_bytes > 0 && now.bytes <= now.planned_bytes {
        line += &format!(" of {}", show::bytes(now.planned_bytes));
    }
    line += &format!(" ({})", show::rate(now.bytes, now.took));
    let left = now.planned_bytes.saturating_sub(now.bytes);
    if now.bytes > 0 && left > 0 {
        let ratio = u128::from(left).saturating_mul(now.took.as_millis()) / u128::from(now.bytes);
        let left = Duration::from_millis(u64::try_from(ratio).unwrap_or(u64::MAX));
        line += &format!(", about {} left", show::duration(left));
    }
    line
}

/// Writes a log line with the bars out of the way.
struct Around(MultiProgress);

impl Write for Around {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A line is written in one call, so it is not torn.
        self.0.suspend(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn plain_lines() {
        let mut now = Snapshot {
            files: 120,
            bytes: 10 << 20,
            planned_files: 1500,
            planned_bytes: 110 << 20,
            took: Duration::from_secs(5),
        };
        assert_snapshot!(plain_line(&now), @"120 of 1500 files, 10.0 MiB of 110.0 MiB (2.0 MiB/s), about 50.0 s left");
        (now.bytes, now.took) = (0, Duration::ZERO);
        assert_snapshot!(plain_line(&now), @"120 of 1500 files, 0 B of 110.0 MiB (0 B/s)");
        (now.bytes, now.planned_bytes, now.files) = (5 << 20, 0, 1600);
        assert_snapshot!(plain_line(&now), @"1600 of 1600 files, 5.0 MiB (5.0 MiB/s)");
    }

    #[test]
    fn counting_without_a_terminal_draws_nothing_and_survives_any_order() {
        let progress = Progress::new(Wanted::No);
        let path = TreePath::new("a").unwrap();
        progress.file_done(&path);
        progress.bytes(&path, 5);
        progress.planned(3, 100);
        progress.file_started(&path, 2 << 20);
        let now = progress.snapshot(&progress.drawn());
        assert_eq!((now.files, now.planned_files, now.bytes, now.planned_bytes), (1, 4, 5, 105));
        progress.finish();
        assert_eq!(progress.snapshot(&progress.drawn()).planned_files, 0);
    }

    #[test]
    fn bars_come_and_go() {
        let progress = Progress { show: Show::Bars, ..Progress::new(Wanted::No) };
        progress.bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        let path = TreePath::new("large").unwrap();
        progress.phase(Phase::Listing);
        progress.planned(1, 4 << 20);
        progress.file_started(&path, 4 << 20);
        progress.file_started(&path, 4 << 20);
        assert_eq!(progress.own_bars.load(Relaxed), 1);
        progress.bytes(&path, 1 << 20);
        assert_eq!(progress.drawn().files[&path].position(), 1 << 20);
        assert_eq!(progress.drawn().total.as_ref().unwrap().position(), 1 << 20);
        progress.file_done(&path);
        assert!(progress.drawn().files.is_empty());
        progress.finish();
        assert!(progress.drawn().total.is_none());
    }
}
