//! What ends a pull, and is worth waiting for while following: somebody can put it right meanwhile.

use sync_core::{Hint as _, Problem, TreePath};
use sync_tree::{apply::ApplyError, index::IndexError, look::LookError};

use crate::engine::{EngineError, TargetError, describe};

/// Trouble that may pass.
#[derive(Debug)]
pub(super) struct Passing {
    /// What is told of it.
    pub problem: Problem,
    /// What was open is not to be used any more: the target is opened anew.
    pub reopen: bool,
}

const MAKE_ROOM: &str = "free some space: .syncd/trash holds what was replaced";

/// What to wait for, if waiting is worth it. What is wrong when the target is opened for the first time is told at once instead.
pub(super) fn passing(error: &EngineError, was_open: bool) -> Option<Passing> {
    let waits = |problem| Some(Passing { problem, reopen: false });
    let anew = |problem| Some(Passing { problem, reopen: true });
    match error {
        _ if !was_open => None,
        EngineError::Apply(error) => {
            let problem = told(error.path().clone(), error, advice_of(error));
            if matches!(error, ApplyError::Gone { .. }) { anew(problem) } else { waits(problem) }
        }
        // The notes are on the same disk, unless they have a place of their own.
        EngineError::Index(source)
        | EngineError::Look(LookError::Index(source))
        | EngineError::Database { source, .. }
            if is_full(source) =>
        {
            let text = format!("The disk is full: cannot write down what is done ({MAKE_ROOM}; {GOES_ON})");
            waits(Problem::new(TreePath::root(), text))
        }
        EngineError::Index(source) | EngineError::Look(LookError::Index(source)) => {
            anew(told(TreePath::root(), source, source.hint()))
        }
        EngineError::Look(error) => waits(told(TreePath::root(), error, error.hint())),
        EngineError::Target(TargetError::Held { .. } | TargetError::ShareItself { .. }) => None,
        EngineError::State(_) | EngineError::Target(_) | EngineError::Database { .. } => {
            anew(told(TreePath::root(), error, error.hint()))
        }
        EngineError::Halt(_)
        | EngineError::Location(_)
        | EngineError::Cancelled
        | EngineError::Digest
        | EngineError::Broken { .. } => None,
    }
}

const GOES_ON: &str = "following then goes on by itself";

fn advice_of(error: &ApplyError) -> Option<&'static str> {
    Some(match error {
        ApplyError::Full { .. } => MAKE_ROOM,
        ApplyError::ReadOnly { .. } => "remount it for writing",
        ApplyError::Gone { .. } => "what is lost of .syncd is made anew; look for whoever removed it",
        error => return error.hint(),
    })
}

fn told(path: TreePath, error: &dyn std::error::Error, advice: Option<&str>) -> Problem {
    let text = describe(error);
    Problem::new(
        path,
        match advice {
            Some(advice) => format!("{text} ({advice}; {GOES_ON})"),
            None => format!("{text} ({GOES_ON} as soon as it can)"),
        },
    )
}

fn is_full(error: &IndexError) -> bool {
    let IndexError::Database { source } = error else { return false };
    source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}
