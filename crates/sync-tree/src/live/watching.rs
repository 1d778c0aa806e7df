//! How the loop hears of changes: the sink that the watcher's thread calls, and the observer that places watches.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sync_core::TreePath;

use super::{Shared, inbox::Mail, site::Site};
use crate::{
    look::LookObserver,
    watch::{
        EventSink, WatchError, WatchEvent, Watcher, WatcherFactory,
        dirty::{Located, locate},
        places::Places,
    },
};

/// Starts a watcher for a site, which hears of cookies already.
pub(super) fn start_watcher(
    factory: &WatcherFactory,
    shared: &Arc<Shared>,
    site: &Site,
) -> Result<Box<dyn Watcher>, WatchError> {
    let mut watcher = factory(sink(shared, site))?;
    watcher.watch(&site.cookies_path)?;
    Ok(watcher)
}

fn sink(shared: &Arc<Shared>, site: &Site) -> EventSink {
    // The watcher belongs to the loop, which ends before the last of the shared state does.
    let shared = Arc::clone(shared);
    let root = site.root.path().to_path_buf();
    let cookies = site.cookies_path.clone();
    Arc::new(move |event| match cookie(&cookies, &event) {
        Some(number) => shared.inbox.see_cookie(number),
        None => shared.inbox.put(|mail| note(mail, &root, event)),
    })
}

/// The number of the cookie that an event is about.
fn cookie(cookies: &Path, event: &WatchEvent) -> Option<u64> {
    let (WatchEvent::Touched(path) | WatchEvent::Appeared(path)) = event else { return None };
    if path.parent()? != cookies {
        return None;
    }
    path.file_name()?.to_str()?.parse().ok()
}

/// Turns an event into places to look at.
fn note(mail: &mut Mail, root: &Path, event: WatchEvent) {
    let located = |path: PathBuf| locate(root, &path);
    match event {
        WatchEvent::Lost => mail.mark_lost(),
        WatchEvent::Touched(path) => {
            // What is in a file whose name cannot be carried is of no interest.
            if let Located::At(path) = located(path) {
                mail.mark(path, false);
            }
        }
        WatchEvent::Appeared(path) => match located(path) {
            Located::At(path) | Located::In(path) => mail.mark(path, true),
            Located::Elsewhere => {}
        },
        WatchEvent::Vanished(path) => match located(path) {
            Located::At(path) => mail.mark_vanished(path),
            Located::In(path) => mail.mark(path, true),
            Located::Elsewhere => {}
        },
    }
}

/// Places watches while a look walks, and knows what events have said.
pub(super) struct Observer<'a> {
    pub(super) places: &'a Places,
    pub(super) stop: &'a AtomicBool,
    pub(super) said: Said<'a>,
}

/// What is known to be gone if it is not there.
pub(super) enum Said<'a> {
    /// Whatever it is: nothing more is heard of it.
    Everything,
    /// What left these places, by the events, and what is in these, which tell nothing.
    Of { vanished: &'a HashSet<TreePath>, polled: &'a HashSet<TreePath> },
}

impl LookObserver for Observer<'_> {
    fn entering(&self, dir: &TreePath) {
        self.places.enter(dir);
    }

    fn is_gone_for_good(&self, path: &TreePath) -> bool {
        let Said::Of { vanished, polled } = self.said else { return true };
        let mut above = std::iter::successors(Some(path.clone()), TreePath::parent);
        above.any(|place| vanished.contains(&place) || polled.contains(&place))
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    use super::*;
    use crate::watch::dirty::Dirt;

    fn noted(events: impl IntoIterator<Item = WatchEvent>) -> (Dirt, Vec<TreePath>, bool) {
        let mut mail = Mail::default();
        for event in events {
            note(&mut mail, Path::new("/t"), event);
        }
        let mut vanished: Vec<TreePath> = mail.vanished.iter().cloned().collect();
        vanished.sort();
        (mail.take_dirty().take(), vanished, mail.lost)
    }

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn places(list: &[(&str, bool)]) -> Dirt {
        Dirt::Places(list.iter().map(|(text, deep)| (path(text), *deep)).collect())
    }

    #[test]
    fn a_write_is_one_place_and_a_new_name_may_be_a_tree() {
        let (dirt, vanished, lost) =
            noted([WatchEvent::Touched("/t/a/f".into()), WatchEvent::Appeared("/t/new".into())]);
        assert_eq!(dirt, places(&[("a/f", false), ("new", true)]));
        assert!(vanished.is_empty() && !lost);
    }

    #[test]
    fn a_rename_is_both_places_and_its_watches_are_void() {
        let (dirt, vanished, _) =
            noted([WatchEvent::Vanished("/t/old".into()), WatchEvent::Appeared("/t/new".into())]);
        assert_eq!(dirt, places(&[("new", true), ("old", true)]));
        assert_eq!(vanished, [path("old")]);
    }

    #[test]
    fn names_that_cannot_be_carried_make_their_directory_dirty() {
        let odd = Path::new("/t/a").join(OsStr::from_bytes(b"\xff"));
        assert_eq!(noted([WatchEvent::Touched(odd.clone())]).0, places(&[]));
        assert_eq!(noted([WatchEvent::Appeared(odd.clone())]).0, places(&[("a", true)]));
        assert_eq!(noted([WatchEvent::Vanished(odd)]).0, places(&[("a", true)]));
    }

    #[test]
    fn our_own_files_and_other_trees_are_of_no_interest() {
        let own =
            ["/t/.syncd/share.db", "/t/.syncd", "/elsewhere/f"].map(|path| WatchEvent::Touched(path.into()));
        assert_eq!(noted(own).0, places(&[]));
    }

    #[test]
    fn lost_events_are_noted_and_what_was_heard_of_is_not_forgotten() {
        let (dirt, _, lost) = noted([WatchEvent::Touched("/t/a".into()), WatchEvent::Lost]);
        assert_eq!(dirt, places(&[("a", false)]));
        assert!(lost);
    }

    #[test]
    fn cookies_are_told_by_their_directory_and_number() {
        let cookies = Path::new("/t/.syncd/cookies");
        for (event, want) in [
            (WatchEvent::Appeared("/t/.syncd/cookies/7".into()), Some(7)),
            (WatchEvent::Touched("/t/.syncd/cookies/8".into()), Some(8)),
            (WatchEvent::Vanished("/t/.syncd/cookies/9".into()), None),
            (WatchEvent::Appeared("/t/cookies/9".into()), None),
            (WatchEvent::Appeared("/t/.syncd/cookies/x".into()), None),
            (WatchEvent::Lost, None),
        ] {
            assert_eq!(cookie(cookies, &event), want, "{event:?}");
        }
    }
}
