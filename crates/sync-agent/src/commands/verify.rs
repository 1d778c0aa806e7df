//! `verify`: reads the whole target and compares it with the share.

use std::time::Instant;

use sync_cli::ExitCode;
use tokio_util::sync::CancellationToken;

use super::{Invocation, run_job, since, tell};
use crate::{engine::Summary, report::verify_line, session::Job};

/// Verifies, says what came of it, and answers the exit code.
pub(crate) async fn run(invocation: &Invocation, cancel: CancellationToken) -> ExitCode {
    let began = Instant::now();
    let ended = run_job(invocation, Job::Verify, cancel).await;
    tell(&invocation.console, &ended, since(began, false), judge, verify_line)
}

pub(super) fn judge(summary: &Summary) -> ExitCode {
    if summary.equal && summary.problems.is_empty() { ExitCode::Ok } else { ExitCode::Problems }
}
