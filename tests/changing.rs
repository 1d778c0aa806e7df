//! Files that change at the worst moment: while they are hashed, when they are opened to be served, in the middle of being served,
//! and in the target between the look and the placing. A program is stopped there, the file is changed, and it goes on. Never is
//! a torn file seen, and when the writing stops both sides become equal.
#![cfg(feature = "failpoints")]
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "the trees are the test's own")]

mod common;

use std::{fs, path::PathBuf, time::Duration};

use common::{LATER, Lab, SOON, scene};
use sync_testkit::{
    eventually,
    programs::{Daemon, Outcome, PATIENCE},
    tree::{Tree, same},
    versions::{Shape, contents, version_of},
};
use sync_tree::probe::{FAULT, SWITCH};

/// The file that changes, and what it holds in another version.
const PATH: &str = "the file";
/// Packed with others; on its own; with most of it already in the target.
const SHAPES: [Shape; 3] = [Shape::Bytes(3_000), Shape::Bytes(1_700_000), Shape::Mostly(1_700_000)];

/// What is done to it in a tree.
type Change = fn(&Tree, Shape);

const CHANGES: [(&str, Change); 8] = [
    ("other content", |tree, shape| drop(tree.file(PATH, contents(PATH, 9, shape)))),
    ("saved by a rename", |tree, shape| tree.save(PATH, contents(PATH, 9, shape))),
    ("grown", |tree, shape| tree.append(PATH, contents(PATH, 9, shape))),
    ("cut off", |tree, _| {
        let file = fs::File::options().write(true).open(tree.path(PATH)).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("a link", |tree, _| {
        tree.remove(PATH);
        tree.link(PATH, "elsewhere");
    }),
    ("a directory", |tree, _| {
        tree.remove(PATH);
        tree.file(format!("{PATH}/in it"), "x");
    }),
    ("deleted", |tree, _| tree.remove(PATH)),
    ("renamed", |tree, _| tree.rename(PATH, "renamed")),
];

/// Where a program is stopped: in the daemon or the agent, at which call.
const MOMENTS: [(&str, bool, &str); 5] = [
    ("while it is hashed", true, "hold read tree 1 of the file"),
    ("when it is opened to be served", true, "hold open-file tree 1 of the file"),
    ("in the middle of being served", true, "hold read tree 2 of the file"),
    ("between its check and its placing", false, "hold checked tree 1"),
    ("before its placing", false, "hold changes tree 1"),
];

struct Case {
    moment: usize,
    shape: Shape,
    change: usize,
}

/// A laboratory whose target has version 1 of the file, and a switch.
struct Stage {
    lab: Lab,
    daemon: Daemon,
    switch: PathBuf,
}

impl Stage {
    fn new(case: &Case) -> Self {
        let lab = Lab::new();
        let (_, in_daemon, rule) = MOMENTS[case.moment];
        let switch = lab.path("held while this is here");
        lab.share.file(PATH, contents(PATH, 1, case.shape));
        lab.share.file("another", "stays");
        let spec = lab.spec();
        let spec = if in_daemon { spec.env(FAULT, rule).env(SWITCH, &switch) } else { spec };
        let daemon = spec.start();
        lab.agent(&daemon.url()).pull().expect(0);
        Self { lab, daemon, switch }
    }

    /// Version 2, which the daemon knows and need not read again: whoever reads it then is sending it.
    fn settle(&mut self, shape: Shape) {
        self.daemon.stop();
        self.lab.share.file(PATH, contents(PATH, 2, shape));
        let written = self.lab.share.placed(PATH).path().metadata().unwrap().modified().unwrap();
        eventually(SOON, || match written.elapsed() {
            Ok(age) if age > Duration::from_millis(200) => Ok(()),
            age => Err(format!("{age:?}")),
        });
        self.daemon.restart();
    }

    fn is_held(&self) -> bool {
        let mut held = self.switch.clone().into_os_string();
        held.push(".held");
        PathBuf::from(held).exists()
    }
}

/// Whatever is at the path is one complete version, of the share's or of an edit.
fn check_whole(tree: &Tree) -> Result<(), String> {
    let Ok(bytes) = fs::read(tree.path(PATH)) else { return Ok(()) };
    if tree.path(PATH).is_symlink() {
        return Ok(());
    }
    version_of(PATH, &bytes).map(drop)
}

fn judge(case: &Case) -> Result<(), String> {
    let mut stage = Stage::new(case);
    let (_, in_daemon, rule) = MOMENTS[case.moment];
    if case.moment == 0 {
        fs::write(&stage.switch, "").unwrap();
        stage.lab.share.file(PATH, contents(PATH, 2, case.shape));
    } else {
        stage.settle(case.shape);
        fs::write(&stage.switch, "").unwrap();
    }
    let agent = stage.lab.agent(&stage.daemon.url());
    let agent = if in_daemon { agent } else { agent.env(FAULT, rule).env(SWITCH, &stage.switch) };
    let mut pull = agent.start(&["pull"]);
    eventually(SOON, || match stage.is_held() || !pull.is_running() {
        true => Ok(()),
        false => Err("nothing is held".into()),
    });
    if !stage.is_held() {
        return Err(format!("the moment did not come: {}", pull.all()));
    }
    let side = if in_daemon { stage.lab.share.clone() } else { stage.lab.target() };
    CHANGES[case.change].1(&side, case.shape);
    fs::remove_file(&stage.switch).unwrap();
    let outcome = Outcome::read(pull.finish(PATIENCE));
    if !matches!(outcome.code, Some(0 | 3)) || outcome.stderr.contains("panicked") {
        return Err(format!("exit code {:?}: {}\n{}", outcome.code, outcome.stdout, outcome.stderr));
    }
    // What somebody does in the target himself may be torn by himself.
    if in_daemon && !["grown", "cut off"].contains(&CHANGES[case.change].0) {
        check_whole(&stage.lab.target())?;
    }
    let end = eventually_equal(&stage);
    end.map_err(|error| format!("{error}; the first pull said {}", outcome.stdout))
}

fn eventually_equal(stage: &Stage) -> Result<(), String> {
    sync_testkit::try_eventually(LATER, || {
        let outcome = Outcome::read(stage.lab.agent(&stage.daemon.url()).start(&["pull"]).finish(PATIENCE));
        match outcome.code {
            Some(0) => same(stage.lab.share.root(), stage.lab.target().root(), Default::default()),
            code => Err(format!("exit code {code:?}: {}", outcome.stdout)),
        }
    })
}

#[test]
fn a_file_that_changes_at_any_moment_is_never_torn_and_ends_equal() {
    let mut cases = Vec::new();
    for moment in 0..MOMENTS.len() {
        for shape in SHAPES {
            // A small one is read at once: there is no middle.
            if moment == 2 && shape == SHAPES[0] {
                continue;
            }
            // What is not a file any more has no delta.
            let changes = if shape == SHAPES[2] { 4 } else { CHANGES.len() };
            cases.extend((0..changes).map(|change| Case { moment, shape, change }));
        }
    }
    let name =
        |case: &Case| format!("{:?}, {} {}", case.shape, CHANGES[case.change].0, MOMENTS[case.moment].0);
    scene::judge_all(cases, name, judge);
}
