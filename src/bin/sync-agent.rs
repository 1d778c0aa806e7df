//! The agent. Everything is in the library, so that it can be tested in-process.

fn main() -> std::process::ExitCode {
    sync_agent::main()
}
