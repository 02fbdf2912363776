//! The command-line program: parses, runs one command, turns its outcome into an exit code.

fn main() -> std::process::ExitCode {
    allocscope::command::main()
}
