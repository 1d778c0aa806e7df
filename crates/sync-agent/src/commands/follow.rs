//! `follow`: pulls, then applies changes as they come, until a signal.

use std::sync::Arc;

use sync_cli::ExitCode;
use tokio_util::sync::CancellationToken;

use super::{ENDS_WITHIN, Invocation};
use crate::{
    console::Talk,
    failure::Failure,
    program::say,
    session::{Dialed, Session, within_reason},
};

/// Follows, and answers the exit code.
pub(crate) async fn run(invocation: &Invocation, cancel: CancellationToken) -> ExitCode {
    let console = &invocation.console;
    if let Err(failure) = invocation.require_target() {
        say(console, &failure);
        return failure.code;
    }
    let (dial, open) = (invocation.dial(), |dialed: &Dialed| invocation.open(dialed));
    let talk = Arc::clone(console) as Arc<dyn Talk>;
    let mut session = Session::new(&dial, &open, invocation.patience(), talk);
    session.share.clone_from(&invocation.settings.share);
    session.cancel = cancel.clone();
    let ended = within_reason(&cancel, ENDS_WITHIN, session.follow()).await;
    console.progress.finish();
    match ended {
        // What did not end in time is no failure: the next run goes on from what is recorded.
        None | Some(Ok(())) => ExitCode::Ok,
        Some(Err(error)) => {
            let failure = Failure::from(error);
            say(console, &failure);
            failure.code
        }
    }
}
