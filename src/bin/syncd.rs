//! The daemon. Everything is in the library, so that it can be tested in-process.

fn main() -> std::process::ExitCode {
    sync_daemon::main()
}
