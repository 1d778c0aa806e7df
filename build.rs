//! Compiles `proto/` for `crates/sync-wire` (this is its build script) without `protoc`: `protox` parses the files and
//! `tonic-prost-build` generates from its descriptor set. The same set is what gRPC reflection serves.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 1] = ["sync/v1/sync.proto"];

/// What carries much has it as `Bytes`, which are parted without a copy. To encode such a field allocates once more, which costs more
/// than to copy the 32 bytes of a digest.
const WITH_MUCH: [&str; 4] = [
    ".sync.v1.ChunkBatch",
    ".sync.v1.Compressed",
    ".sync.v1.FetchFileResponse",
    ".sync.v1.FetchFilesResponse",
];

#[expect(clippy::disallowed_methods, reason = "OUT_DIR is cargo's own")]
fn main() -> Result<(), Box<dyn Error>> {
    let include = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", include.display());
    println!("cargo:rerun-if-changed=../../build.rs");
    let mut compiler = protox::Compiler::new([&include])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let set = compiler.file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("sync.v1.bin"), set.encode_to_vec())?;
    let configured =
        WITH_MUCH.into_iter().fold(tonic_prost_build::configure(), tonic_prost_build::Builder::bytes);
    configured.compile_fds(set)?;
    Ok(())
}
