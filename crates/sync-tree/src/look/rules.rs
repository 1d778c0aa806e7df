//! The ignore rules during a look: what was known before it, and what the walk finds on the way.

use std::{
    io::Read as _,
    sync::atomic::{AtomicI64, Ordering},
};

use sync_core::{RuleFile, RuleSet, TreePath};

use super::{LookError, RulePolicy, RuleTexts};
use crate::{
    index::Index,
    probe::probed,
    rooted::{Dir, Root},
    rules::{BadLine, MAX_SET_BYTES, Rules, SYNCIGNORE, cost},
};

/// A rule file larger than this is cut: nobody writes such a file by hand, and every path would be matched against it.
const MAX_RULE_BYTES: u64 = 1 << 20;

/// The rules a look begins with.
#[derive(Debug)]
pub(super) struct LookRules {
    /// What the index says the `.syncignore` files hold.
    pub texts: RuleTexts,
    /// Compiled, the configured patterns included.
    pub compiled: Rules,
    /// Whether the tree's own `.syncignore` files count.
    pub own: bool,
    config: RuleFile,
    /// How much more rules may be found before some do not count any more.
    room: AtomicI64,
}

impl LookRules {
    pub(super) fn load(policy: &RulePolicy, index: &Index) -> Result<Self, LookError> {
        match policy {
            RulePolicy::Given(rules) => Ok(Self {
                texts: RuleTexts::new(),
                compiled: Rules::compile(rules),
                own: false,
                config: RuleFile { dir: TreePath::root(), text: String::new() },
                room: AtomicI64::new(0),
            }),
            RulePolicy::Own { config } => {
                let config = RuleFile { dir: TreePath::root(), text: config.join("\n") };
                // The first stored file is the configuration of last time, see `rule_set`.
                let texts: RuleTexts =
                    index.rule_set()?.files.into_iter().skip(1).map(|file| (file.dir, file.text)).collect();
                let set = rule_set(&config, &texts);
                let taken: i64 = set.files.iter().map(|file| cost_of(&file.dir, Some(&file.text))).sum();
                let room = AtomicI64::new(MAX_SET_BYTES as i64 - taken);
                Ok(Self { texts, compiled: Rules::compile(&set), own: true, config, room })
            }
        }
    }

    /// These rules with the text that a directory was found to have. Nothing if with it not all rules count any more: which
    /// of them do can only be said when all are known.
    pub(super) fn with_text(&self, rules: &Rules, dir: &TreePath, text: Option<&str>) -> Option<Rules> {
        let known = self.texts.get(dir).map(String::as_str);
        let more = cost_of(dir, text) - cost_of(dir, known);
        if self.room.fetch_sub(more, Ordering::Relaxed) < more {
            return None;
        }
        let config = dir.is_root().then(|| self.config.clone());
        let own = text.map(|text| RuleFile { dir: dir.clone(), text: text.to_owned() });
        let files: Vec<RuleFile> = config.into_iter().chain(own).collect();
        Some(rules.with_dir(dir, &files))
    }

    /// The rules as they are stored and sent: the configuration first, then each `.syncignore` in path order.
    pub(super) fn rule_set(&self, texts: &RuleTexts) -> RuleSet {
        rule_set(&self.config, texts)
    }
}

fn rule_set(config: &RuleFile, texts: &RuleTexts) -> RuleSet {
    let own = texts.iter().map(|(dir, text)| RuleFile { dir: dir.clone(), text: text.clone() });
    RuleSet { files: std::iter::once(config.clone()).chain(own).collect() }
}

fn cost_of(dir: &TreePath, text: Option<&str>) -> i64 {
    text.map_or(0, |text| cost(dir, text) as i64)
}

/// The lines of the root's own rule file that would be left out.
#[must_use]
pub fn bad_root_lines(root: &Root) -> Vec<BadLine> {
    let Ok(text) = read_text(&root.dir(), SYNCIGNORE) else { return Vec::new() };
    let set = RuleSet { files: vec![RuleFile { dir: TreePath::root(), text }] };
    Rules::compile(&set).bad_lines().to_vec()
}

/// A short text in a state directory, if it is there.
#[must_use]
pub fn small_text(dir: &Dir, name: &str) -> Option<String> {
    read_text(dir, name).ok().map(|text| text.trim().to_owned())
}

/// The text of a directory's rule file.
pub(super) fn read_text(dir: &Dir, name: &str) -> std::io::Result<String> {
    let file = dir.open_file(name)?;
    let mut bytes = Vec::new();
    probed!(Read { file: &file, at: 0 } => (&file).take(MAX_RULE_BYTES).read_to_end(&mut bytes))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
