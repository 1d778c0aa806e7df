//! What goes wrong in a request, and the one place where it becomes a gRPC status.

use sync_core::{Hint as _, NameError};
use sync_tree::{index::IndexError, serve::ServeError};
use tonic::Status;

use crate::shares::NoSuchShare;

/// Why a request ends without its answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(transparent)]
    NoSuchShare(#[from] NoSuchShare),
    #[error("The request has {what}")]
    Malformed { what: &'static str },
    #[error("The path is not allowed: {source}")]
    Path { source: NameError },
    #[error("There is no such path in the share")]
    NoSuchPath,
    #[error("The share is still being scanned; try again when it is ready")]
    Scanning,
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("The server is shutting down")]
    Stopping,
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        let message = told(&error);
        match error {
            RequestError::NoSuchShare(_) | RequestError::NoSuchPath => Status::not_found(message),
            RequestError::Malformed { .. } | RequestError::Path { .. } => Status::invalid_argument(message),
            RequestError::Scanning | RequestError::Stopping => Status::unavailable(message),
            RequestError::Serve(error) => serve_status(&error, refusal(&error)),
            RequestError::Index(_) => {
                // The client cannot do anything about it; the operator must hear of it.
                tracing::error!(%message, "the index of a share cannot be used");
                Status::internal(message)
            }
        }
    }
}

fn serve_status(error: &ServeError, message: String) -> Status {
    match error {
        ServeError::NoSuchNode => Status::not_found(message),
        ServeError::NotAFile => Status::invalid_argument(message),
        ServeError::Changed | ServeError::TooLarge => Status::failed_precondition(message),
        ServeError::Unreadable { .. } => Status::unknown(message),
        ServeError::Index(_) => Status::internal(message),
    }
}

/// What a client is told of a file that it does not get: whoever reads it may have to ask somebody at the server to act.
pub(super) fn refusal(error: &ServeError) -> String {
    match error.hint() {
        Some(hint) if matches!(error, ServeError::Unreadable { .. }) => format!("{} ({hint})", told(error)),
        _ => told(error),
    }
}

/// An error and its causes in one line.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Runs blocking work away from the threads that serve connections.
pub(super) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, RequestError>
where
    T: Send + 'static,
    E: Into<RequestError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        // The work is never cancelled by us and panics are bugs: both only happen when the runtime ends.
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(RequestError::Stopping),
    }
}
