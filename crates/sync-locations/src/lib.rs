//! Everything that a tree can be read from, behind one trait: [`Location`].
//!
//! A sync reads a tree's feed and then asks for bytes; it need not know whether they come from a daemon
//! ([`RemoteSyncd`]), from a directory of this machine ([`LocalFolder`]) or from a test's script ([`Memory`], and [`Faulty`] in front of any). One suite
//! (`conformance`) says what all of them must do. What a location says is never trusted further than its types: names are
//! valid because they were checked at the border, but bytes are the receiver's to check against their digest.
//!
//! Reading order: [`location`] (the contract), [`error`], [`remote`], [`local`], [`memory`], [`faulty`].

pub mod error;
pub mod faulty;
pub mod local;
pub mod location;
pub mod memory;
pub mod remote;

#[cfg(test)]
mod conformance;

pub use error::{LocationError, ProtocolError};
pub use faulty::Faulty;
pub use local::LocalFolder;
pub use location::{
    Answer, AnswerStream, BoxFuture, ByteStream, ChangeStream, FetchFailure, KnownChunks, Location,
    MOST_RANGES, Want,
};
pub use memory::Memory;
pub use remote::{Compression, ConnectOptions, RemoteSyncd, Windows};
