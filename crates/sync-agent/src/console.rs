//! What a run says while it goes on: progress for all commands; for `follow` one event a line on stdout as well.

mod told;

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use sync_cli::{Stdout, show};
use sync_core::{Halt, Hint as _, Problem, TreePath, name::escape};

use crate::{
    engine::{AppliedOp, Phase, Reporter, Summary},
    progress::{Progress, Wanted},
    report::{ProblemReport, cursor_text, json_line, problem_line},
    session::Dialed,
};

use told::{Told, Unsaid};

/// Hears of the connection, beside what the engine reports.
pub(crate) trait Talk: Reporter {
    /// There is a connection.
    fn connected(&self, dialed: &Dialed);
    /// The connection is lost, and the next attempt comes after a pause.
    fn disconnected(&self, error: &str, pause: Duration);
}

/// How much is said, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Stdout carries JSON only.
    pub json: bool,
    /// Errors only.
    pub quiet: bool,
    /// Each change is named.
    pub verbose: bool,
}

/// The console of one run.
#[derive(Debug)]
pub(crate) struct Console {
    pub manner: Manner,
    pub progress: Progress,
    stdout: Stdout,
    /// Whether events go to stdout: `follow`.
    events: bool,
    told: Mutex<Told>,
    in_sync: AtomicBool,
}

/// One line of `follow --json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Connected {
        share: &'a str,
        server: &'a str,
    },
    CaughtUp(CaughtUp),
    Applied {
        op: &'static str,
        path: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'a str>,
    },
    Problem(ProblemReport),
    Disconnected {
        error: &'a str,
        retry_seconds: f64,
    },
    Halt {
        reason: String,
        hint: Option<&'static str>,
    },
}

#[derive(Debug, Serialize)]
struct CaughtUp {
    equal: bool,
    checked: u64,
    root_digest: Option<String>,
    cursor: Option<String>,
    problems: usize,
}

impl Console {
    /// The console of `pull` and `verify`.
    pub(crate) fn of_run(manner: Manner) -> Self {
        Self::new(manner, false)
    }

    /// The console of `follow`.
    pub(crate) fn of_follow(manner: Manner) -> Self {
        Self::new(manner, true)
    }

    fn new(manner: Manner, events: bool) -> Self {
        let wanted = if manner.quiet { Wanted::No } else { Wanted::Yes };
        Self {
            manner,
            progress: Progress::new(wanted),
            stdout: Stdout::new(),
            events,
            told: Mutex::default(),
            in_sync: AtomicBool::new(false),
        }
    }

    /// Writes a line of data, or several with line breaks between them.
    pub(crate) fn line(&self, text: &str) {
        if let Err(error) = self.progress.around(|| self.stdout.line(text)) {
            tracing::warn!(%error, "cannot write to stdout");
        }
    }

    /// Writes a line of talk.
    pub(crate) fn talk(&self, text: &str) {
        self.progress.around(|| eprintln!("{text}"));
    }

    /// An event: JSON, or words with the time before them. With `-q` only what is wrong is said, as talk.
    fn event(&self, event: &Event<'_>) {
        let is_wrong = matches!(event, Event::Problem(_) | Event::Disconnected { .. } | Event::Halt { .. });
        if let Some(line) = self.event_line(event) {
            self.line(&line);
        } else if self.events
            && is_wrong
            && let Some(words) = words(event)
        {
            self.talk(&words);
        }
    }

    /// What an event is as a line of data, if it is one.
    fn event_line(&self, event: &Event<'_>) -> Option<String> {
        match (self.events, self.manner) {
            (false, _) => None,
            (true, Manner { json: true, .. }) => Some(json_line(event)),
            (true, Manner { quiet: true, .. }) => None,
            (true, _) => words(event).map(|words| format!("{} {words}", show::now())),
        }
    }

    /// Whether one more change is named: programs hear of all, people of the first few.
    fn names_change(&self) -> bool {
        self.told().change() || self.manner.json || self.manner.verbose
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says a problem, if it is news: programs hear of all, people of the first few.
    fn problem_event(&self, problem: &Problem, line: &str) {
        let (news, has_room) = {
            let mut told = self.told();
            (told.problem(line), told.has_room())
        };
        if news && self.manner.json {
            self.event(&Event::Problem(problem.into()));
        } else if news && has_room {
            self.talk(line);
        }
    }

    /// Says the problems that came with a round, then what of it was not named.
    fn end_round(&self, problems: &[Problem]) {
        let lines: Vec<_> = problems.iter().map(problem_line).collect();
        for (problem, line) in problems.iter().zip(&lines) {
            self.problem_event(problem, line);
        }
        let standing: HashSet<_> = lines.into_iter().collect();
        let Unsaid { changes, problems } = self.told().end_round(standing);
        if self.manner.json {
            return;
        }
        if changes > 0 && !self.manner.quiet && !self.manner.verbose {
            let more = show::count(changes, "more change");
            self.line(&format!("{} and {more} (-v names all)", show::now()));
        }
        if problems > 0 {
            self.talk(&format!("and {} (status counts all)", show::count(problems, "more problem")));
        }
    }
}

/// An event for people; `None` if it is nothing to them.
fn words(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Connected { share, server } => format!("connected to {} at {}", escape(share), escape(server)),
        Event::CaughtUp(CaughtUp { equal: true, checked, problems: 0, .. }) => {
            format!("in sync: {}", show::count(*checked, "file"))
        }
        Event::CaughtUp(CaughtUp { problems, .. }) => {
            format!("in sync but for {}", show::count(*problems as u64, "path"))
        }
        Event::Applied { path, from: Some(from), .. } => {
            format!("renamed {} -> {}", escape(from), escape(path))
        }
        Event::Applied { op, path, from: None } => applied_words(op, &escape(path)),
        Event::Problem(_) => return None,
        Event::Disconnected { error, retry_seconds } => {
            format!("disconnected: {error}; trying again in {retry_seconds:.1} s")
        }
        Event::Halt { reason, hint: Some(hint) } => format!("halted: {reason} ({hint})"),
        Event::Halt { reason, hint: None } => format!("halted: {reason}"),
    })
}

fn applied_words(op: &str, path: &str) -> String {
    match op {
        "create" => format!("created {path}"),
        "modify" => format!("modified {path}"),
        "metadata" => format!("adjusted {path} (mode or time)"),
        "delete" => format!("deleted {path}"),
        other => format!("{other} {path}"),
    }
}

/// A pipe takes so many bytes as a whole, on Linux, and lets no other process's in between.
const WRITTEN_AT_ONCE: usize = 4096;

/// Lines with line breaks between them, as many together as can be written at once.
fn together(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in lines {
        match all.last_mut() {
            Some(last) if last.len() + line.len() + 2 <= WRITTEN_AT_ONCE => {
                last.push('\n');
                last.push_str(&line);
            }
            _ => all.push(line),
        }
    }
    all
}

fn applied_event<'a>(op: AppliedOp, path: &'a TreePath, from: Option<&'a TreePath>) -> Event<'a> {
    Event::Applied { op: op_word(op), path: path.as_str(), from: from.map(TreePath::as_str) }
}

fn op_word(op: AppliedOp) -> &'static str {
    match op {
        AppliedOp::Create => "create",
        AppliedOp::Modify => "modify",
        AppliedOp::Metadata => "metadata",
        AppliedOp::Delete => "delete",
        AppliedOp::Rename => "rename",
    }
}

impl Reporter for Console {
    fn phase(&self, phase: Phase) {
        tracing::debug!(?phase, "begins");
        self.progress.phase(phase);
    }

    fn planned(&self, files: u64, bytes: u64) {
        self.progress.planned(files, bytes);
    }

    fn planned_in_all(&self, files: u64, bytes: u64) {
        self.progress.planned_in_all(files, bytes);
    }

    fn file_started(&self, path: &TreePath, size: u64) {
        self.progress.file_started(path, size);
    }

    fn bytes(&self, path: &TreePath, count: u64) {
        self.progress.bytes(path, count);
    }

    fn file_done(&self, path: &TreePath) {
        self.progress.file_done(path);
    }

    fn applied(&self, op: AppliedOp, path: &TreePath, from: Option<&TreePath>) {
        let event = applied_event(op, path, from);
        if self.events {
            if self.names_change() {
                self.event(&event);
            }
        } else if self.manner.verbose
            && let Some(words) = words(&event)
        {
            self.talk(&words);
        }
    }

    fn appeared(&self, paths: &[&TreePath]) {
        if !self.events {
            return paths.iter().for_each(|path| self.applied(AppliedOp::Create, path, None));
        }
        // To write each line by itself takes longer than to write all of them down.
        let named = paths.iter().filter(|_| self.names_change());
        let event = |path: &&TreePath| self.event_line(&applied_event(AppliedOp::Create, path, None));
        for lines in together(named.filter_map(event)) {
            self.line(&lines);
        }
    }

    fn problem(&self, problem: &Problem) {
        // Those of a run that ends are listed in the end, when it is known which of them stayed.
        if self.events {
            self.problem_event(problem, &problem_line(problem));
        }
    }

    fn caught_up(&self, summary: &Summary) {
        self.progress.finish();
        self.told().halt(None);
        if self.events {
            self.end_round(&summary.problems);
        }
        let first = !self.in_sync.swap(true, Ordering::Relaxed);
        // People see each change; that it is in sync again after it is news to programs only.
        if first || self.manner.json {
            self.event(&Event::CaughtUp(CaughtUp {
                equal: summary.equal,
                checked: summary.checked,
                root_digest: summary.root_digest.map(|digest| digest.to_hex()),
                cursor: summary.cursor.as_ref().map(cursor_text),
                problems: summary.problems.len(),
            }));
        }
    }

    fn halted(&self, halt: &Halt) {
        self.progress.finish();
        self.in_sync.store(false, Ordering::Relaxed);
        if self.told().halt(Some(halt)) {
            self.event(&Event::Halt { reason: halt.to_string(), hint: halt.hint() });
        }
    }
}

impl Talk for Console {
    fn connected(&self, dialed: &Dialed) {
        self.event(&Event::Connected { share: &dialed.share, server: &dialed.address });
    }

    fn disconnected(&self, error: &str, pause: Duration) {
        self.progress.finish();
        self.in_sync.store(false, Ordering::Relaxed);
        let retry_seconds = (pause.as_secs_f64() * 10.0).round() / 10.0;
        if self.events {
            self.event(&Event::Disconnected { error, retry_seconds });
        } else if !self.manner.quiet {
            self.talk(&format!("{error}; trying again in {retry_seconds:.1} s"));
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn lines_are_written_together_up_to_what_can_be_written_at_once() {
        for lens in
            [vec![], vec![1], vec![40; 300], vec![5000, 1, 5000], vec![1365, 1364, 1364], vec![4095, 0]]
        {
            let lines: Vec<String> =
                lens.iter().enumerate().map(|(at, len)| at.to_string().repeat(*len)).collect();
            let written = together(lines.clone());
            assert!(written.iter().all(|part| part.len() < WRITTEN_AT_ONCE || !part.contains('\n')));
            assert_eq!(written.join("\n"), lines.join("\n"));
        }
        assert_eq!(together(vec!["x".repeat(50); 300]).len(), 4, "80 of them fit");
    }

    #[test]
    fn events_as_json_and_as_words() {
        let events = [
            Event::Connected { share: "docs", server: "127.0.0.1:7420" },
            Event::CaughtUp(CaughtUp {
                equal: true,
                checked: 1,
                root_digest: None,
                cursor: None,
                problems: 0,
            }),
            Event::CaughtUp(CaughtUp {
                equal: false,
                checked: 9,
                root_digest: None,
                cursor: None,
                problems: 2,
            }),
            Event::Applied { op: "create", path: "a/\u{1b}b", from: None },
            Event::Applied { op: "rename", path: "b", from: Some("a") },
            Event::Problem(ProblemReport::from(&Problem::new(TreePath::new("x").unwrap(), "no"))),
            Event::Disconnected { error: "The connection was lost", retry_seconds: 0.3 },
            Event::Halt { reason: "The share is halted: gone".into(), hint: Some("look there") },
        ];
        let json: Vec<_> = events.iter().map(json_line).collect();
        assert_snapshot!(json.join("\n"), @r#"
        {"event":"connected","share":"docs","server":"127.0.0.1:7420"}
        {"event":"caught_up","equal":true,"checked":1,"root_digest":null,"cursor":null,"problems":0}
        {"event":"caught_up","equal":false,"checked":9,"root_digest":null,"cursor":null,"problems":2}
        {"event":"applied","op":"create","path":"a/\u001bb"}
        {"event":"applied","op":"rename","path":"b","from":"a"}
        {"event":"problem","path":"x","error":"no"}
        {"event":"disconnected","error":"The connection was lost","retry_seconds":0.3}
        {"event":"halt","reason":"The share is halted: gone","hint":"look there"}
        "#);
        let words: Vec<_> = events.iter().filter_map(words).collect();
        assert_snapshot!(words.join("\n"), @r#"
        connected to docs at 127.0.0.1:7420
        in sync: 1 file
        in sync but for 2 paths
        created a/\u{1b}b
        renamed a -> b
        disconnected: The connection was lost; trying again in 0.3 s
        halted: The share is halted: gone (look there)
        "#);
    }
}
