//! The ignore rules during a look: what was known before it, and what the walk finds on the way.

use std::io::Read as _;

use sync_core::{RuleFile, RuleSet, TreePath};

use super::{LookError, RulePolicy, RuleTexts};
use crate::{index::Index, rooted::Dir, rules::Rules};

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
}

impl LookRules {
    pub(super) fn load(policy: &RulePolicy, index: &Index) -> Result<Self, LookError> {
        match policy {
            RulePolicy::Given(rules) => Ok(Self {
                texts: RuleTexts::new(),
                compiled: Rules::compile(rules),
                own: false,
                config: RuleFile { dir: TreePath::root(), text: String::new() },
            }),
            RulePolicy::Own { config } => {
                let config = RuleFile { dir: TreePath::root(), text: config.join("\n") };
                // The first stored file is the configuration of last time, see `rule_set`.
                let texts: RuleTexts =
                    index.rule_set()?.files.into_iter().skip(1).map(|file| (file.dir, file.text)).collect();
                let compiled = Rules::compile(&rule_set(&config, &texts));
                Ok(Self { texts, compiled, own: true, config })
            }
        }
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

/// A short text in a state directory, if it is there.
#[must_use]
pub fn small_text(dir: &Dir, name: &str) -> Option<String> {
    read_text(dir, name).ok().map(|text| text.trim().to_owned())
}

/// The text of a directory's rule file.
pub(super) fn read_text(dir: &Dir, name: &str) -> std::io::Result<String> {
    let file = dir.open_file(name)?;
    let mut bytes = Vec::new();
    file.take(MAX_RULE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
