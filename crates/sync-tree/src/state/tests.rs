use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

struct Place {
    _tmp: tempfile::TempDir,
    root: Root,
    home: PathBuf,
}

fn place() -> Place {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("tree")).unwrap();
    let root = Root::open(&tmp.path().join("tree")).unwrap();
    let home = tmp.path().join("home/state");
    Place { root, home, _tmp: tmp }
}

impl Place {
    fn options(&self) -> StateOptions {
        StateOptions { state_dir: None, state_home: Some(self.home.clone()) }
    }
}

#[test]
fn normally_the_state_is_in_the_tree() {
    let place = place();
    assert!(StateDir::find(&place.root, &place.options()).unwrap().is_none());
    assert!(!place.root.path().join(".syncd").exists(), "looking makes nothing");
    let state = StateDir::open(&place.root, &place.options()).unwrap();
    assert_eq!((state.reason, &state.path), (Reason::InTree, &place.root.path().join(".syncd")));
    assert_eq!(mode(&state.path), 0o700);
    for name in ["staging", "trash", "cookies"] {
        assert_eq!(mode(&state.path.join(name)), 0o700);
    }
    state.work.unwrap().staging.create_new("x", 0o600).unwrap();
    assert!(state.path.join("staging/x").exists());
    // Again, with what is there, and with permissions that somebody loosened.
    fs::set_permissions(&state.path, fs::Permissions::from_mode(0o755)).unwrap();
    StateDir::open(&place.root, &place.options()).unwrap();
    assert_eq!(mode(&state.path), 0o700);
    let (_, found) = StateDir::find(&place.root, &place.options()).unwrap().unwrap();
    assert_eq!(found, state.path);
    assert!(!place.home.exists());
}

#[test]
fn a_configured_place_holds_the_state_but_staging_stays_in_the_tree() {
    let place = place();
    let options = StateOptions { state_dir: Some(place.home.join("mine")), ..place.options() };
    assert!(StateDir::find(&place.root, &options).unwrap().is_none());
    let state = StateDir::open(&place.root, &options).unwrap();
    assert_eq!(state.reason, Reason::Configured);
    assert_eq!(state.path, place.home.join("mine").join(tree_id(&place.root)));
    assert_eq!(mode(&state.path), 0o700);
    assert!(state.work.is_some() && place.root.path().join(".syncd/staging").is_dir());
    let (_, found) = StateDir::find(&place.root, &options).unwrap().unwrap();
    assert_eq!(found, state.path);
}

#[test]
fn a_tree_that_cannot_be_written_has_its_state_elsewhere() {
    let place = place();
    fs::set_permissions(place.root.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if writable(&place.root.dir(), ".") {
        // Permissions do not bind this user: the next test covers the choice.
        return;
    }
    let state = StateDir::open(&place.root, &place.options()).unwrap();
    assert_eq!((state.reason, state.work.is_none()), (Reason::ReadOnly, true));
    assert_eq!(state.path, place.home.join("syncd").join(tree_id(&place.root)));
    let error = StateDir::open(&place.root, &StateOptions::default()).unwrap_err();
    assert!(matches!(error, StateError::Homeless { reason: Reason::ReadOnly, .. }));
}

/// `/proc/self` is a directory in which nobody, not even root, can make anything.
#[test]
#[cfg(target_os = "linux")]
fn state_elsewhere_does_not_need_the_tree() {
    let place = place();
    let root = Root::open(Path::new("/proc/self")).unwrap();
    let options = StateOptions { state_dir: Some(place.home.clone()), ..StateOptions::default() };
    let state = StateDir::open(&root, &options).unwrap();
    assert!(state.work.is_none());
    assert_eq!(state.path, place.home.join(tree_id(&root)));
    let state = elsewhere(&root, &place.options(), Reason::ReadOnly).unwrap();
    assert_eq!(state, place.home.join("syncd").join(tree_id(&root)));
    let error = elsewhere(&root, &StateOptions::default(), Reason::NetworkFs).unwrap_err();
    assert!(error.to_string().contains("network file system"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_planted_state_directory_is_refused() {
    for options in [
        |place: &Place| place.options(),
        |place: &Place| StateOptions { state_dir: Some(place.home.clone()), ..StateOptions::default() },
    ] {
        let place = place();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), place.root.path().join(".syncd")).unwrap();
        for error in [
            StateDir::open(&place.root, &options(&place)).map(drop).unwrap_err(),
            StateDir::find(&place.root, &options(&place)).map(drop).unwrap_err(),
        ] {
            assert!(matches!(error, StateError::NotADirectory { .. }), "{error}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
    let place = place();
    StateDir::open(&place.root, &place.options()).unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::remove_dir(place.root.path().join(".syncd/staging")).unwrap();
    symlink(outside.path(), place.root.path().join(".syncd/staging")).unwrap();
    assert!(StateDir::open(&place.root, &place.options()).is_err());
}

#[test]
fn another_users_state_directory_is_refused() {
    let place = place();
    let theirs = place.root.path().join(".syncd");
    fs::create_dir(&theirs).unwrap();
    if std::os::unix::fs::chown(&theirs, Some(geteuid().as_raw() + 1), None).is_err() {
        // Only root can give a directory away.
        return;
    }
    let error = StateDir::open(&place.root, &place.options()).unwrap_err();
    assert!(matches!(error, StateError::OtherOwner { .. }), "{error}");
}

#[test]
fn the_state_home_comes_from_the_environment() {
    for (xdg, home, expected) in [
        (Some("/x"), Some("/h"), Some("/x")),
        (Some(""), Some("/h"), Some("/h/.local/state")),
        (Some("relative"), Some("/h"), Some("/h/.local/state")),
        (None, Some("/h"), Some("/h/.local/state")),
        (None, Some(""), None),
        (None, None, None),
    ] {
        let variable = |name: &str| if name == "HOME" { home } else { xdg }.map(OsString::from);
        assert_eq!(state_home(variable), expected.map(PathBuf::from), "{xdg:?} {home:?}");
    }
}

#[test]
fn each_tree_has_its_own_id() {
    let (a, b) = (place(), place());
    assert_ne!(tree_id(&a.root), tree_id(&b.root));
    assert_eq!(tree_id(&a.root).len(), 32);
}
