//! How a program ends: the exit code, and the last words on stderr.
//!
//! Exit codes are an interface for scripts; [`ExitCode::or`] puts the documented precedence in one place. Advice travels
//! beside an error in an [`anyhow::Error`], so that types with a [`Hint`] need not know how they are printed.

use std::{borrow::Cow, fmt};

use sync_core::{Halt, Hint, name::escape};

use crate::settings::SettingsError;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    #[default]
    Ok = 0,
    /// Could not: server unreachable, lock held, disk full, port in use, share missing.
    Failed = 1,
    /// The command line, the configuration or the share's name is wrong.
    Usage = 2,
    /// Done but for some paths.
    Problems = 3,
    /// Looked like a disaster; a person decides.
    Halted = 4,
    /// Conflicts wait for a person.
    Conflicts = 5,
}

impl ExitCode {
    /// The number that the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The code that stands when both apply: usage, halted, failed, conflicts, problems, ok, the first of them.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.rank() <= other.rank() { self } else { other }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Usage => 0,
            Self::Halted => 1,
            Self::Failed => 2,
            Self::Conflicts => 3,
            Self::Problems => 4,
            Self::Ok => 5,
        }
    }

    /// The code for an error that ends a program: usage for what [`crate::settings`] refused, halted for a [`Halt`], and
    /// failed for the rest.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        if in_chain::<SettingsError>(error).is_some() {
            Self::Usage
        } else if in_chain::<Halt>(error).is_some() {
            Self::Halted
        } else {
            Self::Failed
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> Self {
        code.code()
    }
}

/// An error's message with advice beside it. It sits around the error in an [`anyhow::Error`], which can still be
/// downcast to the error itself.
#[derive(Debug, Clone)]
struct Advice {
    message: String,
    hint: Cow<'static, str>,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Carries advice along with an error.
pub trait Advise<T> {
    /// Keeps the error's own [`Hint`], if it has one.
    ///
    /// # Errors
    /// The same error.
    fn advised(self) -> anyhow::Result<T>
    where
        Self: HasHint;

    /// Adds this advice, in place of the error's own.
    ///
    /// # Errors
    /// The same error.
    fn advise(self, hint: impl Into<Cow<'static, str>>) -> anyhow::Result<T>;
}

/// Results whose error has a [`Hint`].
pub trait HasHint {
    /// The error's advice; `None` where there is none or no error.
    fn own_hint(&self) -> Option<&'static str>;
}

impl<T, E: Hint> HasHint for Result<T, E> {
    fn own_hint(&self) -> Option<&'static str> {
        self.as_ref().err().and_then(Hint::hint)
    }
}

impl<T, E: Into<anyhow::Error>> Advise<T> for Result<T, E> {
    fn advised(self) -> anyhow::Result<T>
    where
        Self: HasHint,
    {
        match self.own_hint() {
            Some(hint) => self.advise(hint),
            None => self.map_err(Into::into),
        }
    }

    fn advise(self, hint: impl Into<Cow<'static, str>>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let error: anyhow::Error = error.into();
            let advice = Advice { message: error.to_string(), hint: hint.into() };
            error.context(advice)
        })
    }
}

/// The advice that an error carries: what [`Advise`] added, or what a well-known error in its chain says.
#[must_use]
pub fn hint_of(error: &anyhow::Error) -> Option<Cow<'_, str>> {
    if let Some(advice) = error.downcast_ref::<Advice>() {
        return Some(Cow::Borrowed(&advice.hint));
    }
    let settings = in_chain::<SettingsError>(error).and_then(Hint::hint);
    settings.or_else(|| in_chain::<Halt>(error).and_then(Hint::hint)).map(Cow::Borrowed)
}

/// The first error of this type, be it wrapped by context or be it the source of another.
fn in_chain<E: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.downcast_ref::<E>().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<E>()))
}

/// An error and its causes in one line, without the word "error" and without advice.
///
/// Control characters are escaped, and a cause that its parent's message already ends with is not repeated.
#[must_use]
pub fn message_of(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = escape(cause.trim_end());
        if cause.is_empty() || text.ends_with(&*cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// What to print on stderr for an error that ends a program: `error: message: cause`, and `hint: …` below it.
#[must_use]
pub fn error_chain(error: &anyhow::Error) -> String {
    let mut text = format!("error: {}", message_of(error));
    if let Some(hint) = hint_of(error) {
        text.push_str("\nhint: ");
        text.push_str(&escape(&hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_first_code_that_applies_stands() {
        use ExitCode::{Conflicts, Failed, Halted, Ok, Problems, Usage};
        let order = [Usage, Halted, Failed, Conflicts, Problems, Ok];
        for (i, a) in order.iter().enumerate() {
            for (j, b) in order.iter().enumerate() {
                assert_eq!(a.or(*b), order[i.min(j)]);
            }
        }
        let codes = [Ok, Failed, Usage, Problems, Halted, Conflicts].map(ExitCode::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn causes_follow_the_message_once() {
        let error = anyhow::Error::new(io::Error::other("disk full")).context("Cannot write a\u{1b}b");
        assert_eq!(error_chain(&error), "error: Cannot write a\\u{1b}b: disk full");
        let twice = anyhow::anyhow!("no such host").context("Cannot connect: no such host");
        assert_eq!(error_chain(&twice), "error: Cannot connect: no such host");
    }

    #[test]
    fn advice_comes_second_and_hides_nothing() {
        let halt = Halt::MassDelete { deletions: 200, files: 300 };
        let plain = anyhow::Error::new(halt.clone()).context("Cannot pull docs");
        let text = error_chain(&plain);
        assert!(
            text.starts_with("error: Cannot pull docs: 200 of 300 files would be deleted\nhint: if that"),
            "{text}"
        );
        assert_eq!(ExitCode::of(&plain), ExitCode::Halted);

        let advised = Err::<(), _>(halt).advised().context("Cannot pull docs").unwrap_err();
        assert_eq!(error_chain(&advised), text);
        assert_eq!(ExitCode::of(&advised), ExitCode::Halted);
        assert!(advised.downcast_ref::<Halt>().is_some());
    }

    #[test]
    fn advice_can_be_added_to_any_error() {
        let refused = Err::<(), _>(io::Error::new(io::ErrorKind::AddrInUse, "address in use"));
        let error =
            refused.advise("choose another --listen").context("Cannot listen on [::1]:1").unwrap_err();
        let want = "error: Cannot listen on [::1]:1: address in use\nhint: choose another --listen";
        assert_eq!(error_chain(&error), want);
        assert_eq!(ExitCode::of(&error), ExitCode::Failed);
        assert_eq!(error.downcast_ref::<io::Error>().map(io::Error::kind), Some(io::ErrorKind::AddrInUse));
    }
}
