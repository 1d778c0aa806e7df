//! What a command says in the end: one JSON object, or a line for people.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;
use sync_cli::{ExitCode, report::message_of, show};
use sync_core::{Cursor, Problem, name::escape};

use crate::{engine::Summary, failure::Failure};

/// Problems that are listed for people; the rest is counted. JSON has them all.
const PROBLEMS_SHOWN: usize = 10;

/// What `pull` and `verify` end with.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    outcome: &'static str,
    exit_code: u8,
    error: Option<String>,
    checked: u64,
    changed: u64,
    synced: u64,
    failed: u64,
    unchanged: u64,
    skipped: u64,
    deleted: u64,
    renamed: u64,
    bytes_received: u64,
    bytes_total: u64,
    seconds: f64,
    cursor: Option<String>,
    root_digest: Option<String>,
    problems: Vec<ProblemReport>,
    dry_run: bool,
}

/// One path that failed.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ProblemReport {
    path: String,
    error: String,
}

impl From<&Problem> for ProblemReport {
    /// The path as it is: JSON has its own way to write what must not be printed.
    fn from(problem: &Problem) -> Self {
        let raw = String::from_utf8_lossy(&problem.raw_name);
        let path = match (problem.path.as_str(), &*raw) {
            ("", "") => ".".to_owned(),
            ("", name) => name.to_owned(),
            (path, "") => path.to_owned(),
            (path, name) => format!("{path}/{name}"),
        };
        Self { path, error: problem.error.clone() }
    }
}

/// How a command ran, beside what came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// How long it took.
    pub took: Duration,
    /// Nothing was to be done.
    pub dry_run: bool,
}

impl Report {
    /// A run that came to its end.
    pub(crate) fn of_summary(summary: &Summary, code: ExitCode, run: Run) -> Self {
        Self {
            outcome: outcome(code),
            exit_code: code.code(),
            error: None,
            checked: summary.checked,
            changed: summary.changed,
            synced: summary.synced,
            failed: summary.failed,
            unchanged: summary.unchanged,
            skipped: summary.skipped,
            deleted: summary.deleted,
            renamed: summary.renamed,
            bytes_received: summary.bytes_received,
            bytes_total: summary.bytes_total,
            seconds: seconds(run.took),
            cursor: summary.cursor.as_ref().map(cursor_text),
            root_digest: summary.root_digest.map(|digest| digest.to_hex()),
            problems: summary.problems.iter().map(ProblemReport::from).collect(),
            dry_run: run.dry_run,
        }
    }

    /// A run that did not, with what it did until then.
    pub(crate) fn of_failure(failure: &Failure, unfinished: &Summary, run: Run) -> Self {
        Self {
            outcome: if failure.interrupted { "interrupted" } else { outcome(failure.code) },
            error: Some(message_of(&failure.error)),
            ..Self::of_summary(unfinished, failure.code, run)
        }
    }
}

fn outcome(code: ExitCode) -> &'static str {
    match code {
        ExitCode::Ok => "ok",
        ExitCode::Failed => "failed",
        ExitCode::Usage => "usage",
        ExitCode::Problems => "problems",
        ExitCode::Halted => "halted",
        ExitCode::Conflicts => "conflicts",
    }
}

/// Whole milliseconds.
fn seconds(took: Duration) -> f64 {
    Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)).as_secs_f64()
}

/// A cursor for people and programs to compare; nobody reads it.
pub(crate) fn cursor_text(cursor: &Cursor) -> String {
    cursor.0.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A value as one line of JSON. What a terminal would obey is written as an escape, also where JSON would allow it as it is.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("values made of texts and numbers can be written");
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        // Such characters stand in texts only, where the escape means the same.
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line
}

/// What a run came to, in one line.
pub(crate) fn closing_line(summary: &Summary, run: Run) -> String {
    let Summary { checked, changed, synced, failed, unchanged, bytes_total, .. } = *summary;
    let plural = if checked == 1 { "" } else { "s" };
    let more = [(summary.renamed, "moved"), (summary.deleted, "deleted"), (summary.skipped, "skipped")];
    let more: String = more
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!(", {count} {word}"))
        .collect();
    if run.dry_run {
        let total = show::bytes(bytes_total);
        return format!(
            "{changed} of {checked} file{plural} would change, {unchanged} unchanged{more}; {total}; nothing was done"
        );
    }
    let (total, took, rate) =
        (show::bytes(bytes_total), show::duration(run.took), show::rate(bytes_total, run.took));
    format!(
        "{changed} of {checked} file{plural} changed: {synced} synced, {failed} failed, {unchanged} unchanged{more}; \
         {total} in {took} ({rate})"
    )
}

/// What `verify` came to, in one line.
pub(crate) fn verify_line(summary: &Summary, run: Run) -> String {
    let files = show::count(summary.checked, "file");
    let took = show::duration(run.took);
    if summary.equal && summary.problems.is_empty() {
        return format!("Equal: {files} read and compared in {took}");
    }
    let differences = show::count(summary.problems.len() as u64, "difference");
    format!("Not equal: {differences}; {files} read and compared in {took}")
}

/// The first problems, one a line, and how many more there are.
pub(crate) fn problem_lines(problems: &[Problem]) -> Vec<String> {
    let mut lines: Vec<_> = problems.iter().take(PROBLEMS_SHOWN).map(problem_line).collect();
    let more = problems.len().saturating_sub(PROBLEMS_SHOWN);
    if more > 0 {
        lines.push(format!("and {} (--json lists all)", show::count(more as u64, "more problem")));
    }
    lines
}

/// One problem.
pub(crate) fn problem_line(problem: &Problem) -> String {
    format!("{}: {}", escape(&problem.shown_path()), escape(&problem.error))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use sync_core::{Digest, TreePath};

    use super::*;
    use crate::engine::{Done, EngineError};

    fn run(millis: u64) -> Run {
        Run { took: Duration::from_millis(millis), dry_run: false }
    }

    fn problem(path: &str, raw: &[u8]) -> Problem {
        let path = TreePath::new(path).unwrap();
        Problem { raw_name: raw.into(), ..Problem::new(path, "permission denied") }
    }

    fn summary() -> Summary {
        Summary {
            checked: 1500,
            changed: 250,
            synced: 248,
            failed: 2,
            unchanged: 1250,
            bytes_received: 124_000_000,
            bytes_total: 123_941_683,
            cursor: Some(Cursor(b"\x01\xab".as_slice().into())),
            root_digest: Some(Digest([7; 32])),
            problems: vec![problem("a/b\u{85}", b""), problem("", b"x\xff")],
            ..Summary::default()
        }
    }

    #[test]
    fn closing_lines() {
        let mut summary = summary();
        assert_snapshot!(closing_line(&summary, run(4500)), @"250 of 1500 files changed: 248 synced, 2 failed, 1250 unchanged; 118.2 MiB in 4.5 s (26.3 MiB/s)");
        assert_snapshot!(closing_line(&summary, Run { dry_run: true, ..run(4500) }), @"250 of 1500 files would change, 1250 unchanged; 118.2 MiB; nothing was done");
        (summary.renamed, summary.deleted, summary.skipped) = (3, 40, 1);
        assert_snapshot!(closing_line(&summary, run(65_000)), @"250 of 1500 files changed: 248 synced, 2 failed, 1250 unchanged, 3 moved, 40 deleted, 1 skipped; 118.2 MiB in 1 min 5 s (1.8 MiB/s)");
        let one = Summary { checked: 1, unchanged: 1, ..Summary::default() };
        assert_snapshot!(closing_line(&one, run(12)), @"0 of 1 file changed: 0 synced, 0 failed, 1 unchanged; 0 B in 12 ms (0 B/s)");
    }

    #[test]
    fn verify_lines() {
        let mut summary = summary();
        assert_snapshot!(verify_line(&summary, run(900)), @"Not equal: 2 differences; 1500 files read and compared in 900 ms");
        summary.problems.clear();
        summary.equal = true;
        assert_snapshot!(verify_line(&summary, run(900)), @"Equal: 1500 files read and compared in 900 ms");
    }

    #[test]
    fn the_report_of_a_run() {
        let report = Report::of_summary(&summary(), ExitCode::Problems, run(4500));
        assert_snapshot!(json_line(&report), @r#"{"outcome":"problems","exit_code":3,"error":null,"checked":1500,"changed":250,"synced":248,"failed":2,"unchanged":1250,"skipped":0,"deleted":0,"renamed":0,"bytes_received":124000000,"bytes_total":123941683,"seconds":4.5,"cursor":"01ab","root_digest":"0707070707070707070707070707070707070707070707070707070707070707","problems":[{"path":"a/b\u0085","error":"permission denied"},{"path":"x�","error":"permission denied"}],"dry_run":false}"#);
    }

    #[test]
    fn the_report_of_a_failure() {
        let failure = Failure::from(EngineError::Cancelled);
        let done = Done { synced: 3, deleted: 1, renamed: 2, bytes_total: 60 };
        let unfinished = Summary::unfinished(done, 77);
        assert_snapshot!(json_line(&Report::of_failure(&failure, &unfinished, run(1000))), @r#"{"outcome":"interrupted","exit_code":1,"error":"Stopped before it was done; what is in place stays, and the next pull goes on from here","checked":3,"changed":3,"synced":3,"failed":0,"unchanged":0,"skipped":0,"deleted":1,"renamed":2,"bytes_received":77,"bytes_total":60,"seconds":1.0,"cursor":null,"root_digest":null,"problems":[],"dry_run":false}"#);
    }

    #[test]
    fn problems_are_listed_up_to_a_bound() {
        let problems: Vec<_> = (0..13).map(|number| problem(&format!("file\n{number}"), b"")).collect();
        let lines = problem_lines(&problems);
        assert_eq!(lines.len(), 11);
        assert_eq!(lines[0], "file\\n0: permission denied");
        assert_eq!(lines[10], "and 3 more problems (--json lists all)");
        assert_eq!(problem_line(&problem("d", b"x\xff\x1b")), "d/x\u{fffd}\\u{1b}: permission denied");
    }

    #[test]
    fn json_keeps_what_it_says_and_moves_no_cursor() {
        let line = json_line(&"a\u{9b}2J\u{202e}\u{7f}中\n");
        assert_eq!(line, r#""a\u009b2J\u202e\u007f中\n""#);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), "a\u{9b}2J\u{202e}\u{7f}中\n");
    }
}
