//! The project's tasks, one file each: `cargo xtask TASK`.

mod bench;
mod demo;
mod dist;
mod kernels;
mod run;
mod setup;
mod smoke;
mod soak;
mod test;
mod tidy;
#[path = "../../allocscope/build/toolchain.rs"]
mod toolchain;

use clap::Parser;
use std::process::ExitCode;

/// The project's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Install what building allocscope and running its tests need.
    Setup(setup::Args),
    /// Build allocscope and watch it trace a workload.
    Demo(demo::Args),
    /// Run every check of this repository.
    Test(test::Args),
    /// Measure what tracing costs, beside other tracers.
    Bench(bench::Args),
    /// Boot other kernels in an emulator and compare what allocscope counts there with the truth.
    Kernels(kernels::Args),
    /// Compare counts of Go programs and native allocators with the truth for an hour.
    Soak(soak::Args),
    /// Check the repository's own rules.
    Tidy,
    /// Write the man page and the shell completions to target/dist.
    Dist,
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Setup(args) => setup::main(&args),
        Task::Demo(args) => demo::main(&args),
        Task::Test(args) => test::main(&args),
        Task::Bench(args) => bench::main(&args),
        Task::Kernels(args) => kernels::main(&args),
        Task::Soak(args) => soak::main(&args),
        Task::Tidy => tidy::main(),
        Task::Dist => dist::main(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
