//! One local directory: reading it, watching it, and changing it without ever leaving it or losing anything.
//!
//! [`rooted`] is the only way to a file of a tree; everything else here stands on it. Everything blocks: callers run it
//! on threads of their own.

#[cfg(test)]
mod apart;
pub mod apply;
mod blocks;
pub mod chunks;
pub mod described;
pub mod durable;
pub mod feed;
mod fresh;
pub mod hash;
pub mod index;
pub mod live;
pub mod lock;
pub mod look;
pub mod platform;
#[cfg(any(test, feature = "failpoints"))]
pub mod probe;
#[cfg(not(any(test, feature = "failpoints")))]
mod probe;
pub mod rooted;
pub mod rules;
pub mod serve;
pub mod shelf;
pub mod state;
mod told;
pub mod trouble;
mod watch;
