//! What the daemon says on standard output: what it serves, that it is ready, and what changes.
//!
//! A thread of its own writes, so that a reader which is slow, stuck or gone never holds the daemon up: lines that find
//! no room are counted and dropped, and nothing is written any more once writing failed.

use std::{
    collections::HashSet,
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, SystemTime},
};

use sync_cli::{Stdout, show};
use sync_core::{Kind, Problem, TreePath, name::escape};
use sync_tree::{
    live::{TreeState, TreeStatus},
    look::{ChangeNote, ChangeOp},
    rules::BadLine,
};

use crate::shares::Share;

/// Pieces of text that may wait to be written.
const PIECES_WAITING: usize = 256;

/// Changes shown of one batch; the rest is counted.
const LINES_IN_A_BATCH: usize = 1000;

/// Problems that are named at a time; the rest is counted.
const PROBLEMS_AT_A_TIME: usize = 10;

/// Characters of a line about one ignore pattern.
const LONGEST_WORDS: usize = 300;

/// Where the daemon's lines go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Console(Option<SyncSender<Piece>>);

#[derive(Debug)]
enum Piece {
    Text(String),
    /// Answered when everything before it is written.
    Mark(tokio::sync::oneshot::Sender<()>),
}

impl Console {
    /// Says nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self(None)
    }

    /// Writes to standard output.
    #[must_use]
    pub fn stdout() -> Self {
        let (sender, pieces) = sync_channel(PIECES_WAITING);
        // Not joined: if standard output is stuck the thread is too, and it ends with the process.
        let thread = std::thread::Builder::new().name("console".into()).spawn(move || write_task(&pieces));
        Self(thread.is_ok().then_some(sender))
    }

    /// Says some lines, unless too many wait already.
    pub(crate) fn say(&self, lines: String) {
        let Some(sender) = &self.0 else { return };
        if let Err(TrySendError::Full(_)) = sender.try_send(Piece::Text(lines)) {
            tracing::debug!("standard output does not keep up; lines are left out");
        }
    }

    /// Waits until everything that was said is written, but not for ever.
    pub(crate) async fn finish(&self) {
        let (mark, reached) = tokio::sync::oneshot::channel();
        if let Some(sender) = &self.0
            && sender.try_send(Piece::Mark(mark)).is_ok()
        {
            // Late or never is the same here: the reader does not read.
            let _ = tokio::time::timeout(Duration::from_millis(300), reached).await;
        }
    }
}

fn write_task(pieces: &Receiver<Piece>) {
    let stdout = Stdout::new();
    let mut broken = false;
    for piece in pieces {
        match piece {
            Piece::Text(text) if !broken => broken = stdout.line(&text).is_err(),
            Piece::Text(_) => {}
            // Whoever waited may have given up.
            Piece::Mark(mark) => drop(mark.send(())),
        }
    }
}

/// The first lines.
pub(crate) fn greeting(address: SocketAddr) -> String {
    format!("syncd {}\nlistening on {address}", env!("CARGO_PKG_VERSION"))
}

/// One share's line, when its first scan is over.
pub(crate) fn share_line(share: &Share) -> String {
    let status = share.tree.status().borrow().clone();
    let dir = share.tree.root_path().to_string_lossy();
    let mut line = format!("share {}  {}  ", escape(&share.name), escape(&dir));
    let counts = || {
        let problems = match share.tree.problems().len() as u64 {
            0 => String::new(),
            count => format!(", {}", show::count(count, "problem")),
        };
        let files = show::count(status.head.files, "file");
        format!("{files}, {}{problems}", show::bytes(status.head.bytes))
    };
    // Writing to a string cannot fail.
    let _ = match &status.state {
        TreeState::Scanning => write!(line, "scanning"),
        TreeState::Ready => write!(line, "{}", counts()),
        TreeState::Degraded { .. } => {
            write!(line, "{}, degraded: {}", counts(), escape(&status.watching.to_string()))
        }
        TreeState::Halted { reason } => write!(line, "halted: {}", escape(reason)),
    };
    if let Some(note) = share.tree.state_note() {
        let _ = write!(line, "  ({})", escape(&note));
    }
    line
}

/// The line that tells scripts and tests to go on.
pub(crate) fn ready_line(address: SocketAddr) -> String {
    // A socket address shows IPv6 in brackets.
    format!("ready http://{address}")
}

/// A share's change of state.
pub(crate) fn state_line(share: &str, status: &TreeStatus) -> String {
    let (word, reason) = match &status.state {
        TreeState::Scanning => ("scanning", String::new()),
        TreeState::Ready => ("ready", String::new()),
        TreeState::Degraded { .. } => ("degraded: ", status.watching.to_string()),
        TreeState::Halted { reason } => ("halted: ", reason.clone()),
    };
    format!("{} {} {word}{}", show::now(), escape(share), escape(&reason))
}

/// What is newly wrong in a share, a line for each path up to a limit.
pub(crate) fn problem_lines(known: &[Problem], now: &[Problem]) -> Vec<String> {
    fresh_lines(known, now, problem_words)
}

/// The ignore patterns that are newly not understood, a line for each up to a limit.
pub(crate) fn rule_lines(known: &[BadLine], now: &[BadLine]) -> Vec<String> {
    fresh_lines(known, now, bad_line_words)
}

fn fresh_lines<T>(known: &[T], now: &[T], words: impl Fn(&T) -> String) -> Vec<String> {
    let known: HashSet<_> = known.iter().map(&words).collect();
    let mut fresh: Vec<_> = now.iter().map(&words).filter(|words| !known.contains(words)).collect();
    let more = fresh.len().saturating_sub(PROBLEMS_AT_A_TIME);
    if more > 0 {
        fresh.truncate(PROBLEMS_AT_A_TIME);
        fresh.push(format!("and {}", show::count(more as u64, "more problem")));
    }
    fresh
}

/// What is wrong with a pattern. A line of a rule file may be of any length.
pub(crate) fn bad_line_words(bad: &BadLine) -> String {
    let words = escape(&bad.to_string()).to_string();
    match words.char_indices().nth(LONGEST_WORDS) {
        Some((end, _)) => format!("{} …", &words[..end]),
        None => words,
    }
}

fn problem_words(problem: &Problem) -> String {
    format!("{}: {}", problem.shown_path(), escape(&problem.error))
}

/// One line for each change of a batch, up to a limit.
pub(crate) fn change_lines(share: &str, notes: &Arc<Vec<ChangeNote>>, now: SystemTime) -> String {
    let (time, share) = (show::time(now), escape(share));
    let mut lines: Vec<String> =
        notes.iter().take(LINES_IN_A_BATCH).map(|note| change_line(&time, &share, note)).collect();
    if notes.len() > LINES_IN_A_BATCH {
        let more = (notes.len() - LINES_IN_A_BATCH) as u64;
        lines.push(format!("{time} {share} … and {} more", thousands(more)));
    }
    lines.join("\n")
}

/// Stands for the changes that came faster than they could be told.
pub(crate) fn left_out_line(share: &str, now: SystemTime) -> String {
    format!("{} {} … and more changes than can be shown", show::time(now), escape(share))
}

fn change_line(time: &str, share: &str, note: &ChangeNote) -> String {
    // A directory is told by its slash.
    let shown = |path: &TreePath| {
        let slash = if note.kind == Kind::Directory { "/" } else { "" };
        format!("{}{slash}", escape(path.as_str()))
    };
    let path = shown(&note.path);
    let what = match &note.op {
        ChangeOp::Created => format!("created {path}"),
        ChangeOp::Modified => format!("modified {path}"),
        ChangeOp::Metadata => return format!("{time} {share} adjusted {path} (mode or time)"),
        ChangeOp::Renamed { from } => format!("renamed {} -> {path}", shown(from)),
        ChangeOp::Deleted => return format!("{time} {share} deleted {path}"),
        ChangeOp::Forgotten => return format!("{time} {share} ignored {path}"),
    };
    match note.kind {
        Kind::File => format!("{time} {share} {what} ({})", show::bytes(note.size)),
        Kind::Symlink => format!("{time} {share} {what} (link)"),
        Kind::Directory => format!("{time} {share} {what}"),
    }
}

/// A number with a comma before each three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn note(op: ChangeOp, path: &str) -> ChangeNote {
        ChangeNote { op, path: TreePath::new(path).unwrap(), kind: Kind::File, size: 2048 }
    }

    #[test]
    fn a_change_is_one_line_whatever_its_name() {
        let from = TreePath::new("old").unwrap();
        let notes = vec![
            note(ChangeOp::Created, "a\nb"),
            ChangeNote { kind: Kind::Directory, ..note(ChangeOp::Renamed { from }, "new") },
            ChangeNote { kind: Kind::Symlink, ..note(ChangeOp::Modified, "l") },
            note(ChangeOp::Metadata, "m"),
            note(ChangeOp::Deleted, "中文"),
        ];
        let lines = change_lines("docs", &Arc::new(notes), UNIX_EPOCH);
        assert_eq!(
            lines,
            "1970-01-01T00:00:00Z docs created a\\nb (2.0 KiB)\n\
             1970-01-01T00:00:00Z docs renamed old/ -> new/\n\
             1970-01-01T00:00:00Z docs modified l (link)\n\
             1970-01-01T00:00:00Z docs adjusted m (mode or time)\n\
             1970-01-01T00:00:00Z docs deleted 中文"
        );
    }

    #[test]
    fn a_flood_is_counted() {
        let notes: Vec<_> = (0..10_000).map(|i| note(ChangeOp::Created, &format!("f{i}"))).collect();
        let lines = change_lines("s", &Arc::new(notes), UNIX_EPOCH);
        assert_eq!(lines.lines().count(), 1001);
        assert!(lines.ends_with("s … and 9,000 more"), "{}", lines.lines().last().unwrap());
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn problems_are_told_once() {
        let problem = |path: &str| Problem::new(TreePath::new(path).unwrap(), "Permission denied");
        let known = vec![problem("a")];
        let now = vec![problem("b"), problem("a")];
        assert_eq!(problem_lines(&known, &now), ["b: Permission denied"]);
        assert!(problem_lines(&now, &known).is_empty());
        let many: Vec<_> = (0..15).map(|i| problem(&i.to_string())).collect();
        assert_eq!(problem_lines(&[], &many).len(), 11);
        assert_eq!(problem_lines(&[], &many)[10], "and 5 more problems");
    }

    #[test]
    fn patterns_that_are_not_understood_are_told_once_and_not_at_length() {
        let bad = |dir: &str, text: &str| BadLine {
            dir: TreePath::new(dir).unwrap(),
            text: text.to_owned(),
            error: "invalid range".to_owned(),
        };
        let now = [bad("", "[z-a]"), bad("a", "[z-a]"), bad("a", &"[".repeat(60_000))];
        let lines = rule_lines(&now[..1], &now);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], "The ignore pattern \"[z-a]\" in a/.syncignore is left out: invalid range");
        assert!(lines[1].ends_with("[ …") && lines[1].len() < 400, "{}", lines[1]);
        assert!(rule_lines(&now, &now).is_empty());
    }

    #[test]
    fn ready_shows_ipv6_in_brackets() {
        assert_eq!(ready_line("[::1]:7420".parse().unwrap()), "ready http://[::1]:7420");
    }
}
