//! The gRPC services: convert, call, convert back. The only place in this crate that knows the generated types.

mod describe_file;
mod descriptions;
mod errors;
mod fetch_file;
mod fetch_files;
mod frames;
mod newest;
mod replies;
mod server;
mod squeeze;
mod sync;
mod wants;
mod watch;

pub(crate) use newest::Newest;
pub(crate) use server::{Health, serve};
