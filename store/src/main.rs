//! `kinesin`: the store, and its operator's commands. Everything is in the library; this only starts it.

fn main() -> std::process::ExitCode {
    store::cli::main()
}
