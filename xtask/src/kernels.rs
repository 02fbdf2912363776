//! `kernels`: boots other kernels in an emulator and lets allocscope trace programs there that know their counts.

mod check;
mod image;
mod machine;
mod traced;

use crate::setup::kernel::SERIES;
use crate::{run, setup, test};
use anyhow::{Context as _, Result, bail};
use check::Passed;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Boot other kernels in an emulator and compare what allocscope counts there with the truth.
#[derive(clap::Args)]
pub struct Args {
    /// Only this one.
    #[arg(long, value_parser = SERIES)]
    kernel: Option<String>,
    /// Keep target/kernels: the file system, and what each machine printed.
    #[arg(long)]
    keep: bool,
}

/// One kernel's outcome.
struct Outcome {
    series: &'static str,
    passed: Result<Vec<Passed>>,
    took: Duration,
}

/// Runs the task.
pub fn main(args: &Args) -> Result<()> {
    setup::prepare_kernels()?;
    let chosen = |series: &&str| args.kernel.as_deref().is_none_or(|kernel| kernel == *series);
    boot_all(&SERIES.into_iter().filter(chosen).collect::<Vec<_>>(), args.keep)
}

/// The same on all kernels, where set-up was done.
pub fn test() -> Result<()> {
    boot_all(&SERIES, false)
}

/// At once: a machine's second processor is idle most of the time. What a failure left behind stays.
fn boot_all(series: &[&'static str], keep: bool) -> Result<()> {
    test::build_allocscope()?;
    let folder = run::target_dir()?.join("kernels");
    remove(&folder)?;
    let initramfs = image::build(&folder)?;
    let boot = |series: &'static str| boot(series, &folder.join(series), &initramfs);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let started: Vec<_> = series.iter().map(|&series| scope.spawn(move || boot(series))).collect();
        started.into_iter().filter_map(|machine| machine.join().ok()).collect()
    });
    outcomes.iter().for_each(show);
    let passed = outcomes.iter().filter(|outcome| outcome.passed.is_ok()).count();
    if passed < series.len() {
        bail!("{passed} of {} kernels passed; what they printed is in {}", series.len(), folder.display());
    }
    if keep { Ok(()) } else { remove(&folder) }
}

fn remove(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// The best way to attach uprobes that these kernels have: multi came with 6.6, sessions with 6.13.
fn attached_via(series: &str) -> &'static str {
    if series == "6.1" { "perf" } else { "multi" }
}

fn boot(series: &'static str, folder: &Path, initramfs: &Path) -> Outcome {
    let start = Instant::now();
    let passed = machine::run(series, folder, initramfs).and_then(|printed| {
        check::all(&printed.results, attached_via(series))
            .map_err(|error| machine::explain(&error, &printed.console))
    });
    Outcome { series, passed, took: start.elapsed() }
}

fn show(outcome: &Outcome) {
    let Outcome { series, passed, took } = outcome;
    match passed {
        Ok(checks) => {
            eprintln!("Linux {series}: {} checks passed in {:.1} s", checks.len(), took.as_secs_f64());
            for check in checks {
                eprintln!("  {:<8} at {:>5.1} s  {}", check.name, check.seconds, check.summary);
            }
        }
        Err(error) => eprintln!("Linux {series}: FAILED after {:.1} s: {error:#}", took.as_secs_f64()),
    }
}
