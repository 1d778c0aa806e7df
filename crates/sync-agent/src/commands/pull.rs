//! `pull`: makes the target equal once.

use std::time::Instant;

use sync_cli::ExitCode;
use sync_core::{Problem, TreePath};
use tokio_util::sync::CancellationToken;

use super::{Ended, Invocation, run_job, since, tell};
use crate::{
    engine::{PullMode, Summary},
    report::closing_line,
    session::Job,
    settings::cli::PullFlags,
};

/// Pulls, says what came of it, and answers the exit code.
pub(crate) async fn run(invocation: &Invocation, flags: &PullFlags, cancel: CancellationToken) -> ExitCode {
    let began = Instant::now();
    let mode = PullMode { full: flags.full, dry_run: flags.dry_run };
    let Ended { result, done, received } = run_job(invocation, Job::Pull(mode), cancel).await;
    let ended = Ended { result: result.map(|summary| honest(summary, flags.dry_run)), done, received };
    tell(&invocation.console, &ended, since(began, flags.dry_run), judge, closing_line)
}

/// A pull that was not found equal in the end says so, even if it has nothing to say about a single path: files may have
/// changed on both sides all the time.
pub(super) fn honest(mut summary: Summary, dry_run: bool) -> Summary {
    if !dry_run && !summary.equal && summary.problems.is_empty() && summary.failed == 0 {
        let text = "the target was not found equal to the share when the pull ended; pull again";
        summary.problems.push(Problem::new(TreePath::root(), text));
    }
    summary
}

pub(super) fn judge(summary: &Summary) -> ExitCode {
    if summary.failed == 0 && summary.problems.is_empty() { ExitCode::Ok } else { ExitCode::Problems }
}
