//! `test`: every check of this repository, in order, each with its time.

use crate::toolchain::{BpfToolchain, TARGET};
use crate::{kernels, run, setup, tidy};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Run every check of this repository.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the integration tests, which attach to real processes and need root, on this kernel and on
    /// others.
    #[arg(long)]
    fast: bool,
}

const KERNEL_SIDE: &str = "allocscope-ebpf";

/// The rest of the workspace. Never together: feature unification would give the kernel side std.
const USER_SIDE: [&str; 3] = ["--workspace", "--exclude", KERNEL_SIDE];

/// Tests that attach to the kernel at once; more of them disturb each other's timing.
const KERNEL_TEST_THREADS: &str = "2";

/// For the tests of a step, with what they build: a test that hangs ends with its name in sight, and the longest step
/// takes half of this where nothing hangs.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// A check's name and what runs it.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 12] = [
    ("set-up", setup::prepare_tests),
    ("tidy", tidy::main),
    ("format", || run::shown(run::cargo().args(["fmt", "--all", "--check"]))),
    ("clippy, user side", clippy_user_side),
    ("clippy, kernel side", clippy_kernel_side),
    ("rustdoc", rustdoc),
    ("unit tests", unit_tests),
    ("doc tests", doc_tests),
    ("pool alone", || pool_alone(&[])),
    ("pool alone, with its collector", || pool_alone(&["--features", "prometheus"])),
    ("pool, each order of steps", pool_in_loom),
    ("pool, interpreted", pool_in_miri),
];
const INTEGRATION: [Step; 2] =
    [("integration tests", integration_tests), ("tests on other kernels", kernels::test)];

/// Runs the task.
pub fn main(args: &Args) -> Result<()> {
    let start = Instant::now();
    let steps: Vec<Step> = STEPS.into_iter().chain(INTEGRATION.into_iter().filter(|_| !args.fast)).collect();
    for (name, step) in &steps {
        eprintln!("==> {name}");
        let begin = Instant::now();
        step().with_context(|| format!("{name} failed after {:.1} s", begin.elapsed().as_secs_f64()))?;
        eprintln!("<== {name}: {:.1} s", begin.elapsed().as_secs_f64());
    }
    let rest = if args.fast { "; the integration tests were left out" } else { "" };
    eprintln!("all {} steps passed in {:.0} s{rest}", steps.len(), start.elapsed().as_secs_f64());
    Ok(())
}

fn clippy_user_side() -> Result<()> {
    run::shown(run::cargo().arg("clippy").args(USER_SIDE).args(["--all-targets", "--", "-D", "warnings"]))
}

/// With the toolchain and the flags that build it (see aya-build).
fn clippy_kernel_side() -> Result<()> {
    let toolchain = BpfToolchain::find().context("there is no toolchain for BPF")?;
    let mut rustup = Command::new("rustup");
    rustup.args([
        "run",
        toolchain.name(),
        "cargo",
        "clippy",
        "--no-deps",
        "--package",
        KERNEL_SIDE,
        "--target",
        TARGET,
    ]);
    rustup.arg("--target-dir").arg(run::target_dir()?.join("bpf-clippy"));
    if toolchain == BpfToolchain::Nightly {
        rustup.args(["-Z", "build-std=core"]);
    }
    rustup.args(["--", "-D", "warnings"]);
    rustup.envs(toolchain.bootstrap().map(|value| ("RUSTC_BOOTSTRAP", value)));
    rustup.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    rustup.current_dir(run::root()).env("RUSTUP_LOG", "warn").env_remove("RUSTC");
    run::shown(&mut rustup)
}

fn rustdoc() -> Result<()> {
    let mut cargo = run::cargo();
    cargo.args(["doc", "--no-deps"]).args(USER_SIDE).env("RUSTDOCFLAGS", "-D warnings");
    run::shown(&mut cargo)
}

fn unit_tests() -> Result<()> {
    // It has none, and builds what others made.
    let without_bench = ["--exclude", "pool-bench"];
    run::shown_within(
        run::cargo().arg("test").args(USER_SIDE).args(without_bench).args(["--lib", "--bins"]),
        LIMIT,
    )
}

fn doc_tests() -> Result<()> {
    run::shown_within(run::cargo().arg("test").args(USER_SIDE).arg("--doc"), LIMIT)
}

/// The pool without the rest of the crate: the same flags for each way of using it alone, and a folder of its own,
/// so that the whole is not built again.
const POOL: [&str; 5] = ["--package", "allocscope", "--no-default-features", "--lib", "--target-dir"];

fn pool_alone(features: &[&str]) -> Result<()> {
    let folder = run::target_dir()?.join("pool");
    let cargo = |task: &str| {
        let mut cargo = run::cargo();
        cargo.arg(task).args(POOL).arg(&folder).args(features);
        cargo
    };
    run::shown(cargo("clippy").args(["--", "-D", "warnings"]))?;
    run::shown(cargo("clippy").args(["--profile", "test", "--", "-D", "warnings"]))?;
    run::shown(cargo("doc").arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
    run::shown_within(cargo("test").arg("pool"), LIMIT)
}

/// Interleavings of threads, as `allocscope/src/pool/object/loom.rs` models them.
fn pool_in_loom() -> Result<()> {
    let mut cargo = run::cargo();
    cargo.args(["test", "--release"]).args(POOL).arg(run::target_dir()?.join("pool-loom"));
    cargo.arg("explored").env("RUSTFLAGS", "--cfg loom");
    run::shown_within(&mut cargo, LIMIT)
}

/// All tests of the pool that do not leave the language: those with `fork` or other system calls say so themselves. In
/// two halves at once, since an interpreter runs on one processor.
fn pool_in_miri() -> Result<()> {
    interpreted(&["--no-run"]).context("`cargo xtask setup` installs Miri")?;
    thread::scope(|scope| {
        let objects = scope.spawn(|| interpreted(&["pool::object"]));
        let others = interpreted(&["pool", "--", "--skip", "pool::object"]);
        objects.join().unwrap_or_else(|_| bail!("the interpreter's thread panicked")).and(others)
    })
}

fn interpreted(words: &[&str]) -> Result<()> {
    let mut cargo = setup::miri::cargo_miri();
    cargo.arg("test").args(POOL).arg(run::target_dir()?.join("pool-miri")).args(words);
    cargo.env("MIRIFLAGS", "-Zmiri-disable-isolation");
    // Many tests panic on purpose; to interpret what prints a backtrace takes two seconds each.
    cargo.env("RUST_BACKTRACE", "0");
    run::shown_within(&mut cargo, LIMIT)
}

fn integration_tests() -> Result<()> {
    let tests = run::root().join("allocscope/tests");
    if !has_tests(&tests) {
        eprintln!("there are none in {}", tests.display());
        return Ok(());
    }
    integration(&["*"])
}

/// Runs integration tests by the names of their files.
pub fn integration(names: &[&str]) -> Result<()> {
    if !run::can_be_root() {
        bail!("these tests need root and sudo would ask: run `sudo -v` first, or leave them out with --fast");
    }
    let mut cargo = run::cargo();
    cargo.args(["test", "--package", "allocscope"]).args(names.iter().flat_map(|name| ["--test", *name]));
    cargo.env("ALLOCSCOPE_TOOLS", run::tools_dir()?).env("RUST_TEST_THREADS", KERNEL_TEST_THREADS);
    if !run::is_root() {
        // cargo builds as the user, whose files they stay; only the tests run as root.
        cargo.env(runner_variable()?, "sudo -n -E");
    }
    run::shown_within(&mut cargo, LIMIT)
}

/// Builds the program with the features that the integration tests run it with, so that it is not built twice.
pub fn build_allocscope() -> Result<()> {
    run::shown(run::cargo().args(["test", "--package", "allocscope", "--test", "workload", "--no-run"]))
}

fn has_tests(folder: &Path) -> bool {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .any(|path| path.extension().is_some_and(|kind| kind == "rs") || path.join("main.rs").is_file())
}

/// The variable by which cargo is told how to run programs of the host's target.
fn runner_variable() -> Result<String> {
    let text = run::prints(Command::new("rustc").arg("-vV")).context("rustc does not run")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_uppercase()))
}
