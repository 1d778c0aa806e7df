//! What the daemon last said about how it hears of changes, kept beside the trees for `status`.

use serde::{Deserialize, Serialize};
use sync_core::Watching;

/// As it is in the database. What a later version adds is left out here, and what it leaves out is nothing.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    watched: u64,
    directories: u64,
    poll_seconds: u64,
    lost: u64,
    reason: String,
    advice: String,
}

/// What goes into the database.
pub(super) fn encode(watching: &Watching) -> Vec<u8> {
    let Watching { watched, directories, poll_secs: poll_seconds, lost, reason, advice } = watching.clone();
    serde_json::to_vec(&Kept { watched, directories, poll_seconds, lost, reason, advice })
        .expect("numbers and texts always are JSON")
}

/// What came out of it; `None` if that is not to be understood.
pub(super) fn decode(bytes: &[u8]) -> Option<Watching> {
    let Kept { watched, directories, poll_seconds: poll_secs, lost, reason, advice } =
        serde_json::from_slice(bytes).ok()?;
    Some(Watching { watched, directories, poll_secs, lost, reason, advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again() {
        let watching = Watching {
            watched: 1,
            directories: 2,
            poll_secs: 3,
            lost: 4,
            reason: "a limit\n\u{1b}".into(),
            advice: "raise it".into(),
        };
        assert_eq!(decode(&encode(&watching)), Some(watching));
        assert_eq!(decode(b"{\"more\":1}"), Some(Watching::default()));
        assert_eq!(decode(b"\x00"), None);
    }
}
