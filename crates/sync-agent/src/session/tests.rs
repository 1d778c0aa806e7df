//! Connections that fail, come and go, over an engine and a server that only pretend.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Mutex};

use sync_core::Problem;
use sync_locations::Memory;
use sync_tree::{apply::ApplyError, look::LookError};

use super::*;
use crate::engine::TargetError;

/// What happens next, and what happened.
#[derive(Default)]
struct Script {
    /// How attempts to connect end; when it is used up, well.
    dials: RefCell<VecDeque<Result<&'static str, LocationError>>>,
    /// How jobs and follows end; when it is used up, well.
    works: RefCell<VecDeque<EngineError>>,
    opened: RefCell<Vec<ShareId>>,
    asked: RefCell<Vec<Option<String>>>,
    jobs: RefCell<usize>,
}

fn refused() -> LocationError {
    LocationError::Unreachable { address: "127.0.0.1:1".into(), source: "refused".into() }
}

fn cut() -> LocationError {
    LocationError::Cut { source: "reset".into() }
}

fn unknown() -> LocationError {
    LocationError::UnknownShare { share: "dosc".into(), known: vec!["docs".into()] }
}

impl Dial for Script {
    fn dial<'a>(&'a self, share: Option<&'a str>, _: Duration) -> Soon<'a, Result<Dialed, LocationError>> {
        self.asked.borrow_mut().push(share.map(ToOwned::to_owned));
        let next = self.dials.borrow_mut().pop_front().unwrap_or(Ok("docs"));
        Box::pin(async move {
            let memory = Memory::new(next?);
            let share_id = memory.share_id();
            Ok(Dialed { location: Arc::new(memory), share: "docs".into(), share_id, address: "here".into() })
        })
    }
}

struct Pretend(Rc<Script>);

impl Work for Pretend {
    fn run<'a>(&'a mut self, _: Job, _: &'a With) -> Soon<'a, Result<Summary, EngineError>> {
        *self.0.jobs.borrow_mut() += 1;
        let next = self.0.works.borrow_mut().pop_front();
        Box::pin(async {
            next.map_or_else(
                || Ok(Summary { equal: true, synced: 2, deleted: 1, checked: 5, ..Summary::default() }),
                Err,
            )
        })
    }

    fn done(&self) -> Done {
        Done { synced: 2, deleted: 1, renamed: 1, bytes_total: 10 }
    }

    fn follow<'a>(&'a mut self, with: &'a With) -> Soon<'a, Result<(), EngineError>> {
        *self.0.jobs.borrow_mut() += 1;
        let next = self.0.works.borrow_mut().pop_front();
        let cancel = with.cancel.clone();
        Box::pin(async move {
            match next {
                Some(error) => Err(error),
                None => {
                    cancel.cancel();
                    Err(EngineError::Cancelled)
                }
            }
        })
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }
}

impl Reporter for Heard {
    fn halted(&self, halt: &Halt) {
        self.note(format!("halted: {halt}"));
    }

    fn problem(&self, problem: &Problem) {
        self.note(problem.error.clone());
    }
}

impl Talk for Heard {
    fn connected(&self, _: &Dialed) {
        self.note("connected");
    }

    fn disconnected(&self, error: &str, _: Duration) {
        self.note(format!("disconnected: {error}"));
    }
}

const QUICK: Patience = Patience {
    attempt: Duration::from_millis(50),
    first: Duration::from_millis(60),
    again: Duration::from_millis(60),
    first_pauses: Pauses { first: Duration::from_millis(1), longest: Duration::from_millis(5) },
    pauses: Pauses { first: Duration::from_millis(1), longest: Duration::from_millis(5) },
    halt: Duration::from_millis(1),
};

struct Stage {
    script: Rc<Script>,
    heard: Arc<Heard>,
}

impl Stage {
    fn new(
        dials: impl IntoIterator<Item = Result<&'static str, LocationError>>,
        works: impl IntoIterator<Item = EngineError>,
    ) -> Self {
        let script = Script::default();
        script.dials.borrow_mut().extend(dials);
        script.works.borrow_mut().extend(works);
        Self { script: Rc::new(script), heard: Arc::default() }
    }

    fn play<T>(&self, play: impl AsyncFnOnce(&mut Session<'_>) -> T) -> T {
        let open = |dialed: &Dialed| {
            self.script.opened.borrow_mut().push(dialed.share_id);
            Ok(Box::new(Pretend(Rc::clone(&self.script))) as Box<dyn Work>)
        };
        let mut session = Session::new(&*self.script, &open, QUICK, Arc::clone(&self.heard) as Arc<dyn Talk>);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(play(&mut session))
    }

    fn pull(&self) -> Result<Summary, EngineError> {
        self.play(async |session| session.run(Job::Pull(PullMode::default())).await)
    }

    fn follow(&self) -> Result<(), EngineError> {
        self.play(async |session| session.follow().await)
    }

    fn heard(&self) -> Vec<String> {
        self.heard.0.lock().unwrap().clone()
    }
}

#[test]
fn a_server_that_is_not_there_is_given_up_in_time() {
    let always = || std::iter::repeat_with(|| Err(refused())).take(100_000);
    for follow in [false, true] {
        let stage = Stage::new(always(), []);
        let began = std::time::Instant::now();
        let error = if follow { stage.follow().unwrap_err() } else { stage.pull().map(drop).unwrap_err() };
        assert!(matches!(error, EngineError::Location(LocationError::Unreachable { .. })), "{error:?}");
        assert!(began.elapsed() >= QUICK.first);
        assert!(stage.script.asked.borrow().len() > 3 && stage.heard().is_empty());
        assert_eq!(*stage.script.jobs.borrow(), 0);
    }
}

#[test]
fn a_server_that_comes_up_meanwhile_is_found() {
    let stage = Stage::new([Err(refused()), Err(refused())], []);
    assert!(stage.pull().unwrap().equal);
    assert_eq!(stage.heard(), ["connected"]);
}

#[test]
fn a_wrong_name_is_not_tried_twice() {
    let stage = Stage::new([Err(unknown())], []);
    assert!(matches!(stage.pull(), Err(EngineError::Location(LocationError::UnknownShare { .. }))));
    let stage = Stage::new([Err(unknown())], []);
    assert!(stage.follow().is_err());
    assert_eq!(stage.script.asked.borrow().len(), 1);
}

#[test]
fn a_pull_goes_on_over_the_next_connection() {
    let dials = [Ok("docs"), Err(refused()), Err(unknown()), Ok("docs")];
    let stage = Stage::new(dials, [cut().into(), LocationError::Silent { after: QUICK.attempt }.into()]);
    assert!(stage.pull().unwrap().equal);
    let heard = stage.heard();
    assert_eq!(heard[..3], ["connected", "disconnected: The connection was lost: reset", "connected"]);
    assert_eq!((heard.len(), *stage.script.jobs.borrow()), (5, 3));
    // One target, opened once; and the name that was found is kept.
    assert_eq!(stage.script.opened.borrow().len(), 1);
    let asked = stage.script.asked.borrow();
    assert_eq!(asked[0], None);
    assert!(asked[1..].iter().all(|share| share.as_deref() == Some("docs")));
}

#[test]
fn what_was_done_over_all_connections_counts() {
    let stage = Stage::new([], [cut().into(), cut().into()]);
    let all = stage.pull().unwrap();
    assert_eq!((all.synced, all.changed, all.checked, all.unchanged), (6, 6, 6, 0), "{all:?}");
    assert_eq!((all.deleted, all.renamed, all.bytes_total), (3, 2, 20), "{all:?}");
    // Also if it comes to nothing in the end.
    let stage = Stage::new([], [cut().into(), EngineError::Digest]);
    let done = stage.play(async |session| {
        session.run(Job::Verify).await.unwrap_err();
        session.done
    });
    assert_eq!(done, Done { synced: 4, deleted: 2, renamed: 2, bytes_total: 20 });
}

#[test]
fn a_pull_does_not_go_on_for_ever() {
    // Connections that come and break at once are failures in a row.
    let stage = Stage::new([], std::iter::repeat_with(|| cut().into()).take(100_000));
    assert!(matches!(stage.pull(), Err(EngineError::Location(LocationError::Cut { .. }))));
    // And so is a server that never comes back.
    let gone = std::iter::once(Ok("docs")).chain(std::iter::repeat_with(|| Err(refused())).take(100_000));
    let stage = Stage::new(gone, [cut().into()]);
    assert!(matches!(stage.pull(), Err(EngineError::Location(LocationError::Unreachable { .. }))));
    assert_eq!(stage.heard(), ["connected", "disconnected: The connection was lost: reset"]);
}

#[test]
fn what_a_new_connection_does_not_cure_ends_a_pull() {
    let halt = Halt::Share { reason: "gone".into() };
    for error in
        [EngineError::Halt(halt), EngineError::Digest, LocationError::Refused { message: "no".into() }.into()]
    {
        let stage = Stage::new([], [error]);
        assert!(stage.pull().is_err());
        assert_eq!(*stage.script.jobs.borrow(), 1);
    }
}

#[test]
fn following_never_gives_up_once_it_was_connected() {
    let gone = std::iter::once(Ok("docs")).chain(std::iter::repeat_with(|| Err(unknown())).take(30));
    let stage = Stage::new(gone, std::iter::repeat_with(|| cut().into()).take(30));
    assert!(stage.follow().is_ok());
    assert_eq!(*stage.script.jobs.borrow(), 31);
    assert_eq!(stage.heard().iter().filter(|text| *text == "connected").count(), 31);
}

#[test]
fn following_waits_through_a_halt_but_not_for_another_share() {
    let halt = || EngineError::Halt(Halt::MassDelete { deletions: 200, files: 300 });
    let stage = Stage::new([], [halt(), halt()]);
    assert!(stage.follow().is_ok());
    assert_eq!(stage.heard()[1], "halted: 200 of 300 files would be deleted");
    assert_eq!(*stage.script.jobs.borrow(), 3);
    let other = Halt::OtherShare { recorded: "a".into(), asked: "b".into() };
    assert!(matches!(Stage::new([], [EngineError::Halt(other)]).follow(), Err(EngineError::Halt(_))));
}

#[test]
fn following_waits_for_a_disk_and_says_what_to_do() {
    let path = || sync_core::TreePath::new("a/b").unwrap();
    let full = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(13), None);
    let errors = [
        EngineError::Apply(ApplyError::Full { path: path() }),
        EngineError::Apply(ApplyError::ReadOnly { path: path() }),
        EngineError::Index(full.into()),
    ];
    let stage = Stage::new([], errors);
    assert!(stage.follow().is_ok());
    assert_eq!(
        stage.heard()[1..],
        [
            "The disk is full: cannot write a/b (free some space: .syncd/trash holds what was replaced; following then goes on by itself)",
            "The file system is read-only: cannot change a/b (remount it for writing; following then goes on by itself)",
            "The disk is full: cannot write down what is done (free some space: .syncd/trash holds what was replaced; following then goes on by itself)",
        ]
    );
    assert_eq!(*stage.script.jobs.borrow(), 4);
    assert_eq!(stage.script.opened.borrow().len(), 1);
}

#[test]
fn following_waits_for_a_failing_disk_and_opens_anew_what_was_lost() {
    let path = || sync_core::TreePath::new("a/b").unwrap();
    let (io, many) = (5, 24);
    let os = std::io::Error::from_raw_os_error;
    let failed = |errno| ApplyError::Io { path: path(), action: "flush directories", source: os(errno) };
    let broken = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(10), Some("disk I/O error".into()));
    let root = LookError::Root { path: "/t".into(), source: os(io) };
    for (error, opened, words) in [
        (EngineError::Apply(failed(io)), 1, "the disk may be failing"),
        (EngineError::Apply(failed(many)), 1, "ulimit -n"),
        (EngineError::Look(root), 1, "the disk may be failing"),
        (EngineError::Apply(ApplyError::Gone { path: path() }), 2, "made anew"),
        (EngineError::Index(broken.into()), 2, "disk I/O error"),
    ] {
        let stage = Stage::new([], [error]);
        assert!(stage.follow().is_ok());
        let heard = stage.heard();
        assert!(heard[1].contains(words) && heard[1].contains("goes on by itself"), "{heard:?}");
        assert_eq!(
            (*stage.script.jobs.borrow(), stage.script.opened.borrow().len()),
            (2, opened),
            "{heard:?}"
        );
    }
    // Nobody can put these right meanwhile.
    let held = TargetError::Held { target: "/t".into(), pid: None };
    for error in [EngineError::Target(held), EngineError::Broken { reason: "a bug".into() }] {
        assert!(Stage::new([], [error]).follow().is_err());
    }
}

#[test]
fn a_share_that_was_made_anew_is_opened_anew() {
    let stage = Stage::new([Ok("docs"), Ok("docs made anew")], [cut().into()]);
    stage.pull().unwrap();
    let opened = stage.script.opened.borrow();
    assert_eq!(opened.len(), 2);
    assert_ne!(opened[0], opened[1]);
}

#[test]
fn a_signal_ends_waiting_too() {
    let stage = Stage::new(std::iter::repeat_with(|| Err(refused())).take(100_000), []);
    let cancelled = |session: &mut Session<'_>| session.cancel.cancel();
    let pulled = stage.play(async |session| {
        cancelled(session);
        session.run(Job::Verify).await
    });
    assert!(matches!(pulled, Err(EngineError::Cancelled)));
    let followed = stage.play(async |session| {
        cancelled(session);
        session.follow().await
    });
    assert!(followed.is_ok());
}

#[test]
fn what_hangs_after_a_signal_is_left() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        assert_eq!(within_reason(&cancel, Duration::ZERO, async { 7 }).await, Some(7));
        cancel.cancel();
        let hangs = std::future::pending::<()>();
        assert_eq!(within_reason(&cancel, Duration::from_millis(5), hangs).await, None);
    });
}
