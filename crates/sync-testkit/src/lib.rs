//! What the tests of the programs are written with: trees, processes, a cuttable network, chance.
//!
//! Dev only, and it knows none of the other crates: a test that compares two trees must not trust the code that it
//! tests. Nothing here returns errors to a test that could do nothing about them: a failure panics, and says where.
//! Waiting is always [`eventually`] or a deadline; a sleep of a fixed length is either too short or too long.

pub mod contest;
pub mod crash;
pub mod host;
pub mod limits;
mod link;
mod noise;
pub mod ops;
pub mod power;
pub mod programs;
pub mod proxy;
pub mod rng;
mod scratch;
pub mod seeds;
pub mod tree;
pub mod versions;
mod wait;

pub use link::Link;
pub use scratch::Scratch;
pub use wait::{eventually, moment, paced, try_eventually};
