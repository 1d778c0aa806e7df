//! The shares of this daemon, by name.

use std::sync::Arc;

use sync_core::name::escape;
use sync_tree::{described::Described, live::LiveTree};

use crate::services::Newest;

/// One served tree.
pub(crate) struct Share {
    /// Its name, as requests use it.
    pub name: String,
    /// The tree itself.
    pub tree: Arc<LiveTree>,
    /// The newest part of its feed, made once for all who follow it.
    pub newest: Newest,
}

/// All shares, in the order of the configuration.
#[derive(Clone)]
pub(crate) struct Shares {
    all: Arc<[Arc<Share>]>,
    described: Arc<Described>,
}

impl Shares {
    pub(crate) fn new(shares: Vec<Share>, described: Arc<Described>) -> Self {
        Self { all: shares.into_iter().map(Arc::new).collect(), described }
    }

    /// Where the parts of large files are kept, of all shares together.
    pub(crate) fn described(&self) -> Arc<Described> {
        Arc::clone(&self.described)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Share>> {
        self.all.iter()
    }

    /// The share with this name.
    ///
    /// # Errors
    /// There is none; the error names those that there are.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Share>, NoSuchShare> {
        self.iter().find(|share| share.name == name).cloned().ok_or_else(|| NoSuchShare {
            asked: escape(name).into_owned(),
            known: self.iter().map(|share| escape(&share.name).into_owned()).collect::<Vec<_>>().join(", "),
        })
    }
}

/// A name that no share has.
#[derive(Debug, thiserror::Error)]
#[error("There is no share \"{asked}\" here; there is: {known}")]
pub(crate) struct NoSuchShare {
    asked: String,
    known: String,
}
