//! Every call that changes a tree or its state, and every one that reads it, announces itself here first. A test may listen,
//! refuse the call with an error of its choice, or end the process there.
//!
//! Without the feature `failpoints` (and outside of this crate's own tests) there is nothing of this: [`probed!`] is then the
//! bare call. With it, a call asks only whether anybody listens, until somebody does.
//!
//! Invariants:
//! * Nothing changes a tree but through [`rooted`](crate::rooted), and each function there that does goes through [`probed!`];
//!   commits of the index do as well. So a list of calls is a list of all that happened.
//! * A listener hears only the calls below the directory that it was installed for. Tests in one process do not meet.
//! * `before` is called before anything is done, `after` when it is done and only if it was; on the thread that does it.

/// Makes a call that listeners hear of: `probed!(MakeDir { dir: fd, name: name } => call)`.
#[cfg(any(test, feature = "failpoints"))]
macro_rules! probed {
    ($op:ident { $($key:ident: $value:expr),* } => $act:expr) => {
        $crate::probe::call(&$crate::probe::Call::new($crate::probe::Op::$op)$(.$key($value))*, || $act)
    };
}

/// Makes a call.
#[cfg(not(any(test, feature = "failpoints")))]
macro_rules! probed {
    ($op:ident { $($key:ident: $value:expr),* } => $act:expr) => {
        $act
    };
}

pub(crate) use probed;

#[cfg(any(test, feature = "failpoints"))]
pub use listening::*;

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("failpoints are for tests: a release build must not have them");

#[cfg(any(test, feature = "failpoints"))]
#[path = "probe/failpoint.rs"]
mod failpoint;
#[cfg(any(test, feature = "failpoints"))]
#[path = "probe/fault.rs"]
mod fault;
#[cfg(any(test, feature = "failpoints"))]
#[path = "probe/listening.rs"]
mod listening;
#[cfg(any(test, feature = "failpoints"))]
pub use failpoint::{ALL_TRACE, FAILPOINT, TRACE, arm};
#[cfg(any(test, feature = "failpoints"))]
pub use fault::{FAULT, SWITCH};
