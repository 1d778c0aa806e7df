//! Exit codes of what came to its end, and of what did not.

use sync_core::{Halt, Problem, TreePath};
use sync_locations::LocationError;

use super::*;
use crate::console::Manner;

fn problem() -> Problem {
    Problem::new(TreePath::new("a").unwrap(), "no")
}

fn equal() -> Summary {
    Summary { equal: true, checked: 1, unchanged: 1, ..Summary::default() }
}

#[test]
fn a_pull_is_judged_by_its_paths() {
    let judge = |summary, dry_run| pull::judge(&pull::honest(summary, dry_run));
    assert_eq!(judge(equal(), false), ExitCode::Ok);
    assert_eq!(judge(Summary { problems: vec![problem()], ..equal() }, false), ExitCode::Problems);
    assert_eq!(judge(Summary { failed: 1, ..equal() }, false), ExitCode::Problems);
    // Not equal and nothing to say about it is not a success; a dry run does not compare.
    let unequal = || Summary { equal: false, ..equal() };
    assert_eq!(judge(unequal(), false), ExitCode::Problems);
    assert_eq!(judge(unequal(), true), ExitCode::Ok);
}

#[test]
fn a_verification_is_judged_by_equality() {
    assert_eq!(verify::judge(&equal()), ExitCode::Ok);
    assert_eq!(verify::judge(&Summary { equal: false, ..equal() }), ExitCode::Problems);
    assert_eq!(verify::judge(&Summary { problems: vec![problem()], ..equal() }), ExitCode::Problems);
}

#[test]
fn failures_have_their_codes_whatever_is_printed() {
    let unknown = LocationError::UnknownShare { share: "x".into(), known: Vec::new() };
    for (error, code) in [
        (EngineError::Location(unknown), ExitCode::Usage),
        (EngineError::Halt(Halt::Share { reason: "gone".into() }), ExitCode::Halted),
        (EngineError::Cancelled, ExitCode::Failed),
    ] {
        let console = Console::of_run(Manner { json: false, quiet: true, verbose: false });
        let ended = Ended { result: Err(error.into()), done: Done::default(), received: 0 };
        let run = Run { took: Duration::ZERO, dry_run: false };
        let told = tell(&console, &ended, run, |_| ExitCode::Ok, |_, _| String::new());
        assert_eq!(told, code);
    }
}
