//! Why a command ended without having done its work, as an exit code and as text.

use std::convert::Infallible;

use sync_cli::{Advise as _, ExitCode, report::HasHint};
use sync_locations::LocationError;

use crate::engine::EngineError;

/// The end of a command that could not.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the shell sees.
    pub code: ExitCode,
    /// What was wrong, with advice.
    pub error: anyhow::Error,
    /// Somebody asked for it.
    pub interrupted: bool,
}

impl Failure {
    /// An error of the settings or of the surroundings.
    pub(crate) fn other(error: anyhow::Error) -> Self {
        Self { code: ExitCode::of(&error), error, interrupted: false }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::Halt(_) => ExitCode::Halted,
            EngineError::Location(
                LocationError::UnknownShare { .. } | LocationError::NoShareNamed { .. },
            ) => ExitCode::Usage,
            _ => ExitCode::Failed,
        };
        let interrupted = matches!(error, EngineError::Cancelled);
        Self { code, error: advised(error), interrupted }
    }
}

/// An error with its own advice.
pub(crate) fn advised<E>(error: E) -> anyhow::Error
where
    E: Into<anyhow::Error>,
    Result<Infallible, E>: HasHint,
{
    match Err::<Infallible, E>(error).advised() {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use sync_cli::error_chain;
    use sync_core::Halt;

    use super::*;
    use crate::engine::TargetError;

    fn held() -> TargetError {
        TargetError::Held { target: "/home/me/photos".into(), pid: Some(4711) }
    }

    #[test]
    fn codes_are_the_documented_ones() {
        let unknown = LocationError::UnknownShare { share: "dosc".into(), known: vec!["docs".into()] };
        let unreachable =
            || LocationError::Unreachable { address: "127.0.0.1:1".into(), source: "refused".into() };
        for (error, code) in [
            (EngineError::Location(unknown), ExitCode::Usage),
            (EngineError::Location(LocationError::NoShareNamed { known: Vec::new() }), ExitCode::Usage),
            (EngineError::Halt(Halt::Share { reason: "gone".into() }), ExitCode::Halted),
            (EngineError::Location(unreachable()), ExitCode::Failed),
            (EngineError::Target(held()), ExitCode::Failed),
            (EngineError::Cancelled, ExitCode::Failed),
        ] {
            let text = error.to_string();
            assert_eq!(Failure::from(error).code, code, "{text}");
        }
    }

    #[test]
    fn errors_come_with_causes_and_advice() {
        let refused = "Connection refused (os error 111)".into();
        let error = LocationError::Unreachable { address: "127.0.0.1:7420".into(), source: refused };
        assert_snapshot!(error_chain(&Failure::from(EngineError::from(error)).error), @r#"
        error: Cannot reach syncd at 127.0.0.1:7420: Connection refused (os error 111)
        hint: check that syncd runs there, that the address and port of --server are right, and the firewall
        "#);
        let error = LocationError::UnknownShare { share: "dosc".into(), known: vec!["docs".into()] };
        assert_snapshot!(error_chain(&Failure::from(EngineError::from(error)).error), @r#"
        error: There is no share "dosc" there; there is: docs
        hint: correct --share
        "#);
        let error = Halt::MassDelete { deletions: 200, files: 300 };
        assert_snapshot!(error_chain(&Failure::from(EngineError::from(error)).error), @r#"
        error: 200 of 300 files would be deleted
        hint: if that is what you want, run again with --allow-mass-delete; otherwise look at the share first
        "#);
        assert_snapshot!(error_chain(&Failure::from(EngineError::from(held())).error), @r#"
        error: Another sync-agent (process 4711) is at work on the target /home/me/photos
        hint: end it, or wait until it is done; of all commands only status works beside it, not verify or --dry-run
        "#);
        assert_snapshot!(error_chain(&Failure::from(EngineError::Cancelled).error), @"error: Stopped before it was done; what is in place stays, and the next pull goes on from here");
    }
}
