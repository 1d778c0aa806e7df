//! Why a location did not do what it was asked.
//!
//! There are two kinds: what goes away by trying again ([`LocationError::is_transient`]: a network, a daemon that
//! restarts), and what a person has to put right.

use std::{error::Error, fmt, time::Duration};

use sync_core::{Hint, name::escape};
use sync_wire::WireError;

/// What is known about a failure below, in the words of whoever saw it.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a location did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// Nobody answers there.
    #[error("Cannot reach syncd at {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why not.
        source: Cause,
    },
    /// There is no share with this name.
    #[error("There is no share \"{}\" there; {}", escape(share), Known(known))]
    UnknownShare {
        /// The name that was asked for.
        share: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No share was named, and there is not just one.
    #[error("No share is named, and {}", Known(known))]
    NoShareNamed {
        /// Those that there are.
        known: Vec<String>,
    },
    /// The file does not have the bytes that were asked for (any more): the feed has, or will have, its newer state.
    #[error("The file changed while it was being fetched")]
    Changed,
    /// The stream was broken.
    #[error("The connection was lost")]
    Cut {
        /// By what.
        source: Cause,
    },
    /// Nothing came for too long, not even a sign of life.
    #[error("The connection was silent for {:.1} s", after.as_secs_f64())]
    Silent {
        /// How long.
        after: Duration,
    },
    /// The other side has too much to do, or is shutting down.
    #[error("The server cannot answer now: {message}")]
    Busy {
        /// What it says.
        message: String,
    },
    /// The other side does not do this, and will not do it when asked again.
    #[error("The server refused: {message}")]
    Refused {
        /// What it says.
        message: String,
    },
    /// What came breaks the contract.
    #[error("The server does not keep to the protocol")]
    Protocol {
        /// How.
        source: ProtocolError,
    },
}

/// How an answer breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A value of a message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The whole of it.
    #[error("{0}")]
    Other(&'static str),
}

/// The names of the shares that there are, for people.
struct Known<'a>(&'a [String]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else { return f.write_str("there are none") };
        write!(f, "there {}: {}", if rest.is_empty() { "is" } else { "are" }, escape(first))?;
        rest.iter().try_for_each(|name| write!(f, ", {}", escape(name)))
    }
}

impl LocationError {
    /// Whether trying again later may help without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Cut { .. }
            | Self::Silent { .. }
            | Self::Busy { .. }
            | Self::Changed => true,
            Self::UnknownShare { .. }
            | Self::NoShareNamed { .. }
            | Self::Refused { .. }
            | Self::Protocol { .. } => false,
        }
    }

    /// A broken contract without a bad value.
    pub(crate) fn protocol(what: &'static str) -> Self {
        Self::Protocol { source: ProtocolError::Other(what) }
    }

    /// A stream that ended too soon.
    pub(crate) fn cut(why: &'static str) -> Self {
        Self::Cut { source: why.into() }
    }
}

impl From<WireError> for LocationError {
    fn from(error: WireError) -> Self {
        Self::Protocol { source: error.into() }
    }
}

impl Hint for LocationError {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unreachable { .. } => {
                "check that syncd runs there, that the address and port of --server are right, and the firewall"
            }
            Self::UnknownShare { known, .. } if known.is_empty() => {
                "add a share to the configuration of syncd"
            }
            Self::UnknownShare { .. } => "correct --share",
            Self::NoShareNamed { known } if known.is_empty() => "add a share to the configuration of syncd",
            Self::NoShareNamed { .. } => "choose one with --share NAME",
            Self::Changed => "sync again; the newer version will be picked up",
            Self::Cut { .. } | Self::Silent { .. } => {
                "check the network, and that syncd still runs; then run again, it goes on where it was"
            }
            Self::Busy { .. } => "try again later, or raise the limits in the configuration of syncd",
            Self::Refused { .. } => "look at the log of syncd",
            Self::Protocol { .. } => "check that --server is a syncd, and that its version fits this one",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_named_as_they_are() {
        let unknown = |known: &[&str]| LocationError::UnknownShare {
            share: "dosc".into(),
            known: known.iter().map(ToString::to_string).collect(),
        };
        for (known, want) in [
            (&[][..], "There is no share \"dosc\" there; there are none"),
            (&["docs"], "There is no share \"dosc\" there; there is: docs"),
            (&["docs", "a\u{1b}b"], "There is no share \"dosc\" there; there are: docs, a\\u{1b}b"),
        ] {
            assert_eq!(unknown(known).to_string(), want);
            assert!(!unknown(known).is_transient());
        }
        let unnamed = LocationError::NoShareNamed { known: vec!["a".into(), "b".into()] };
        assert_eq!(unnamed.to_string(), "No share is named, and there are: a, b");
    }

    #[test]
    fn networks_come_back_and_contracts_do_not() {
        assert!(LocationError::cut("x").is_transient());
        assert!(LocationError::Silent { after: Duration::from_secs(25) }.is_transient());
        assert!(!LocationError::protocol("x").is_transient());
        assert!(!LocationError::Refused { message: "no".into() }.is_transient());
        let silent = LocationError::Silent { after: Duration::from_millis(25_000) };
        assert_eq!(silent.to_string(), "The connection was silent for 25.0 s");
    }
}
