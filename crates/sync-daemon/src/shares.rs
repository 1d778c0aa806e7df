//! The shares of this daemon, by name.

use std::sync::Arc;

use sync_core::name::escape;
use sync_tree::live::LiveTree;

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
pub(crate) struct Shares(Arc<[Arc<Share>]>);

impl Shares {
    pub(crate) fn new(shares: Vec<Share>) -> Self {
        Self(shares.into_iter().map(Arc::new).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Share>> {
        self.0.iter()
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
