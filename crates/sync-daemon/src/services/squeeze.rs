//! Whether the bytes of a response are compressed.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use sync_wire::{Compressor, v1};
use tokio::time::Instant;
use tonic::Extensions;

use crate::{connections::Peer, line::Line};

/// When the bytes of a response are compressed.
#[derive(Debug, Clone)]
pub(super) enum When {
    /// Nobody asked for it, or it is not allowed.
    Never,
    /// While the line is what holds things up.
    Slow(Arc<Line>),
    /// As long as they get smaller.
    Always,
}

/// What decides it, but for the request's own words.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    allowed: bool,
    line: Option<Arc<Line>>,
}

impl Policy {
    /// For a request with these extensions.
    pub(super) fn new(allowed: bool, request: &Extensions) -> Self {
        Self { allowed, line: request.get::<Peer>().map(|peer| Arc::clone(&peer.line)) }
    }

    /// For a request that asks for this.
    pub(super) fn when(self, asked: v1::Compression) -> When {
        match (asked, self.line) {
            _ if !self.allowed => When::Never,
            (v1::Compression::Always, _) => When::Always,
            (v1::Compression::Auto, Some(line)) => When::Slow(line),
            (v1::Compression::Auto | v1::Compression::Unspecified, _) => When::Never,
        }
    }
}

impl When {
    fn is_now(&self) -> bool {
        match self {
            Self::Never => false,
            Self::Slow(line) => line.is_slow(Instant::now()),
            Self::Always => true,
        }
    }

    fn has_saved(&self, bytes: usize) {
        if let Self::Slow(line) = self {
            line.saved(bytes, Instant::now());
        }
    }
}

/// Compresses the messages of one response, some of them at a time.
pub(super) struct Squeeze {
    when: When,
    /// Those that nobody uses right now. The one that was used last knows best whether it is worth while.
    idle: Mutex<Vec<Compressor>>,
}

impl Squeeze {
    pub(super) fn new(when: When) -> Self {
        Self { when, idle: Mutex::default() }
    }

    /// Whether bytes are to be compressed at this moment.
    pub(super) fn is_wanted(&self) -> bool {
        self.when.is_now()
    }

    /// The bytes compressed, if that is wanted at this moment and makes them smaller. Blocks for some milliseconds.
    pub(super) fn try_on(&self, bytes: &[u8]) -> Option<v1::Compressed> {
        if !self.is_wanted() {
            return None;
        }
        let mut compressor = self.lock().pop().unwrap_or_default();
        let compressed = compressor.compress(bytes);
        self.lock().push(compressor);
        if let Some(compressed) = &compressed {
            self.when.has_saved(bytes.len() - compressed.frame.len());
        }
        compressed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Compressor>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Squeeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Squeeze").field(&self.when).finish()
    }
}
