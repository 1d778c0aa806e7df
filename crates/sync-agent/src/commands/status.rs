//! `status`: what is configured, when the target was last verified equal, what is pending. Asks nobody and locks nothing.

use std::path::Path;

use serde::Serialize;
use sync_cli::{ExitCode, report::message_of, show};
use sync_core::name::escape;

use super::Invocation;
use crate::{
    engine::{self, EngineError, StatusReport, TargetError, ToldWatching},
    failure::{Failure, advised},
    program::say,
    report::{ProblemReport, cursor_text, json_line, problem_lines},
};

/// Shows the status, and answers the exit code.
pub(crate) fn run(invocation: &Invocation) -> ExitCode {
    let console = &invocation.console;
    match read(invocation) {
        Ok(shown) if console.manner.json => console.line(&json_line(&shown.to_json())),
        Ok(shown) => console.line(shown.to_text().trim_end()),
        Err(failure) => {
            say(console, &failure);
            if console.manner.json {
                console.line(&failure_json(&failure));
            }
            return failure.code;
        }
    }
    ExitCode::Ok
}

/// A status that could not be read, as JSON.
pub(crate) fn failure_json(failure: &Failure) -> String {
    json_line(&serde_json::json!({ "exit_code": failure.code.code(), "error": message_of(&failure.error) }))
}

fn read(invocation: &Invocation) -> Result<Shown, Failure> {
    let settings = &invocation.settings;
    let target = settings.require_target().map_err(|error| Failure::other(advised(error)))?;
    let report = match engine::status(target, settings.state_dir.as_deref()) {
        // Before the first pull.
        Err(EngineError::Target(TargetError::Missing { .. })) => StatusReport::default(),
        other => other?,
    };
    Ok(Shown {
        server: settings.server.clone(),
        share: report.share.clone().or_else(|| settings.share.clone()),
        target: shown_path(target),
        report,
    })
}

fn shown_path(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

/// What is shown.
struct Shown {
    server: String,
    share: Option<String>,
    target: String,
    report: StatusReport,
}

#[derive(Debug, Serialize)]
struct StatusJson {
    server: String,
    share: Option<String>,
    share_id: Option<String>,
    target: String,
    /// Whether an agent works on the target.
    running: bool,
    /// Its process, if it has said so.
    pid: Option<u32>,
    equal_as_of: Option<String>,
    root_digest: Option<String>,
    cursor: Option<String>,
    files: u64,
    bytes: u64,
    pending: u64,
    trash_bytes: u64,
    /// As it was last told; null before that.
    watching: Option<WatchingJson>,
    problems: Vec<ProblemReport>,
}

/// How well the share hears of changes.
#[derive(Debug, Serialize)]
struct WatchingJson {
    degraded: bool,
    watched: u64,
    directories: u64,
    /// What is not watched is looked at about that often; 0: all is watched.
    poll_seconds: u64,
    /// How many times events were lost since the daemon was started.
    lost: u64,
    reason: String,
    advice: String,
    /// When that was told; null if an older version wrote it down.
    as_of: Option<String>,
}

impl From<&ToldWatching> for WatchingJson {
    fn from(ToldWatching { watching, at_secs }: &ToldWatching) -> Self {
        Self {
            degraded: watching.is_degraded(),
            watched: watching.watched,
            directories: watching.directories,
            poll_seconds: watching.poll_secs,
            lost: watching.lost,
            reason: watching.reason.clone(),
            advice: watching.advice.clone(),
            as_of: at_secs.map(show::unix_time),
        }
    }
}

/// How well the share hears of changes, for people.
fn watching_words(ToldWatching { watching, at_secs }: &ToldWatching) -> String {
    let degraded = if watching.is_degraded() { "degraded: " } else { "" };
    let lost = match watching.lost {
        0 => String::new(),
        times => format!("; events were lost {}", show::count(times, "time")),
    };
    let as_of = at_secs.map_or_else(String::new, |at| format!("; as of {}", show::unix_time(at)));
    format!("{degraded}{watching}{lost}{as_of}")
}

impl Shown {
    fn to_json(&self) -> StatusJson {
        let report = &self.report;
        StatusJson {
            server: self.server.clone(),
            share: self.share.clone(),
            share_id: report.share_id.map(|id| id.to_hex()),
            target: self.target.clone(),
            running: report.lock_holder.is_some(),
            pid: report.lock_holder.filter(|pid| *pid != 0),
            equal_as_of: report.last_verified.map(|(at, _)| show::unix_time(at)),
            root_digest: report.last_verified.map(|(_, digest)| digest.to_hex()),
            cursor: report.cursor.as_ref().map(cursor_text),
            files: report.files,
            bytes: report.bytes,
            pending: report.pending,
            trash_bytes: report.trash_bytes,
            watching: report.watching.as_ref().map(WatchingJson::from),
            problems: report.problems.iter().map(ProblemReport::from).collect(),
        }
    }

    fn to_text(&self) -> String {
        let report = &self.report;
        let share = self.share.as_deref().map_or_else(|| "(the only one)".into(), escape);
        let mut text = String::new();
        let mut line = |word: &str, value: &str| text.push_str(&format!("{word:<9} {value}\n"));
        line("server", &escape(&self.server));
        line("share", &share);
        line("target", &escape(&self.target));
        line(
            "agent",
            &match report.lock_holder {
                None => "not running".to_owned(),
                Some(0) => "running".to_owned(),
                Some(pid) => format!("running (process {pid})"),
            },
        );
        line(
            "verified",
            &match report.last_verified {
                None => "never found equal to the share yet".to_owned(),
                Some((at, digest)) => {
                    format!("equal as of {} (root digest {})", show::unix_time(at), &digest.to_hex()[..16])
                }
            },
        );
        line("share has", &format!("{}, {}", show::count(report.files, "file"), show::bytes(report.bytes)));
        line(
            "pending",
            &match report.pending {
                0 => "nothing".to_owned(),
                pending => show::count(pending, "entry"),
            },
        );
        if let Some(watching) = &report.watching {
            line("watching", &escape(&watching_words(watching)));
        }
        line("trash", &show::bytes(report.trash_bytes));
        match report.problems.len() as u64 {
            0 => line("problems", "none"),
            count => line("problems", &show::count(count, "path")),
        }
        for problem in problem_lines(&report.problems) {
            text.push_str(&format!("  {problem}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use sync_core::{Cursor, Digest, Problem, ShareId, TreePath, Watching};

    use super::*;

    fn shown(report: StatusReport) -> Shown {
        Shown {
            server: "http://127.0.0.1:7420".into(),
            share: Some("docs".into()),
            target: "/srv/docs\u{1b}".into(),
            report,
        }
    }

    fn full() -> StatusReport {
        StatusReport {
            share: Some("docs".into()),
            share_id: Some(ShareId([0xab; 16])),
            lock_holder: Some(4711),
            last_verified: Some((1_795_190_400, Digest([0x5a; 32]))),
            pending: 2,
            problems: vec![Problem::new(TreePath::new("a/secret").unwrap(), "permission denied")],
            files: 1500,
            bytes: 123_941_683,
            trash_bytes: 2048,
            watching: Some(ToldWatching {
                watching: Watching {
                    watched: 4096,
                    directories: 9000,
                    poll_secs: 2,
                    lost: 1,
                    reason: "the limit of watches is reached".into(),
                    advice: "raise it".into(),
                },
                at_secs: Some(1_795_190_460),
            }),
            cursor: Some(Cursor(b"\x01\x02".as_slice().into())),
        }
    }

    #[test]
    fn the_status_for_people() {
        assert_snapshot!(shown(StatusReport::default()).to_text(), @r#"
        server    http://127.0.0.1:7420
        share     docs
        target    /srv/docs\u{1b}
        agent     not running
        verified  never found equal to the share yet
        share has 0 files, 0 B
        pending   nothing
        trash     0 B
        problems  none
        "#);
        assert_snapshot!(shown(full()).to_text(), @r#"
        server    http://127.0.0.1:7420
        share     docs
        target    /srv/docs\u{1b}
        agent     running (process 4711)
        verified  equal as of 2026-11-20T16:00:00Z (root digest 5a5a5a5a5a5a5a5a)
        share has 1500 files, 118.2 MiB
        pending   2 entries
        watching  degraded: 4096 of 9000 directories are watched, the others are looked at every 2 s: the limit of watches is reached; raise it; events were lost 1 time; as of 2026-11-20T16:01:00Z
        trash     2.0 KiB
        problems  1 path
          a/secret: permission denied
        "#);
    }

    #[test]
    fn the_status_for_programs() {
        assert_snapshot!(json_line(&shown(full()).to_json()), @r#"{"server":"http://127.0.0.1:7420","share":"docs","share_id":"abababababababababababababababab","target":"/srv/docs\u001b","running":true,"pid":4711,"equal_as_of":"2026-11-20T16:00:00Z","root_digest":"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","cursor":"0102","files":1500,"bytes":123941683,"pending":2,"trash_bytes":2048,"watching":{"degraded":true,"watched":4096,"directories":9000,"poll_seconds":2,"lost":1,"reason":"the limit of watches is reached","advice":"raise it","as_of":"2026-11-20T16:01:00Z"},"problems":[{"path":"a/secret","error":"permission denied"}]}"#);
        assert_snapshot!(failure_json(&Failure::from(EngineError::Cancelled)), @r#"{"error":"Stopped before it was done; what is in place stays, and the next pull goes on from here","exit_code":1}"#);
    }
}
