//! `bench`: what tracing costs, by allocscope and by bpftrace, in one interleaved run.
//!
//! Each round runs every case once with every tracer, in an order that rotates; ratios are taken within a
//! round and the median is over rounds, so that what else the machine does hits all alike.

mod case;
mod go;
mod machine;
mod peer;
mod report;
mod sample;
mod stats;
mod tracer;

use crate::{run, setup};
use anyhow::{Context as _, Result, bail};
use case::Case;
use sample::Sample;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::{env, fs};

/// Measure what tracing costs, beside bpftrace.
#[derive(clap::Args)]
pub struct Args {
    /// How often each case is run with each tracer.
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Where overhead.md and overhead.json go [default: bench in the target folder].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Only the cases whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// One round of tiny cases: shows that everything works, measures nothing.
    #[arg(long)]
    quick: bool,
    /// What this task passes to itself when it goes on as root.
    #[arg(long, hide = true)]
    is_built: bool,
}

/// Runs the task.
pub fn main(args: &Args) -> Result<()> {
    if !args.is_built {
        setup::prepare_build()?;
        setup::prepare_bench()?;
        run::shown(run::cargo().args(["build", "--release", "--package", "allocscope"]))?;
    }
    if !run::is_root() {
        return Err(become_root());
    }
    let cases = chosen_cases(args)?;
    let rounds = if args.quick { 1 } else { args.rounds };
    let machine = machine::facts();
    let samples = measure(&cases, rounds)?;
    let folder = args.output.clone().map_or_else(|| Ok(run::target_dir()?.join("bench")), anyhow::Ok)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let table = report::markdown(&cases, &samples, rounds, &machine, args.quick);
    write(folder.join("overhead.md"), &table)?;
    write(folder.join("overhead.json"), &report::json(&cases, &samples, rounds, &machine)?)?;
    print!("{table}");
    match report::miscounts(&cases, &samples).as_slice() {
        [] => Ok(()),
        lines => {
            bail!("a tracer did not count what it should, so its times mean nothing:\n{}", lines.join("\n"))
        }
    }
}

/// Goes on as root in this process' place; returns only what prevents it.
fn become_root() -> anyhow::Error {
    if !run::can_be_root() {
        return anyhow::anyhow!("tracing needs root and sudo would ask: run `sudo -v` first");
    }
    let own = match env::current_exe() {
        Ok(own) => own,
        Err(error) => return error.into(),
    };
    let mut sudo = run::as_root("env");
    sudo.arg(own).args(env::args_os().skip(1)).arg("--is-built");
    sudo.exec().into()
}

fn chosen_cases(args: &Args) -> Result<Vec<Case>> {
    let program = run::target_dir()?.join("release/allocscope");
    let mut cases = case::native(&program, args.quick);
    cases.extend(go::cases(args.quick)?);
    let chosen = |case: &Case| args.only.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
    cases.retain(chosen);
    if cases.is_empty() {
        bail!("no case has such a name");
    }
    Ok(cases)
}

fn measure(cases: &[Case], rounds: u32) -> Result<Vec<Sample>> {
    let program = run::target_dir()?.join("release/allocscope");
    let mut samples = Vec::new();
    for round in 0..rounds {
        for (index, case) in cases.iter().enumerate() {
            eprintln!("round {} of {rounds}: {}", round + 1, case.name);
            for turn in 0..case.variants.len() {
                let variant = (turn + round as usize) % case.variants.len();
                let sample = sample::take(&program, case, index, variant, round);
                samples
                    .push(sample.with_context(|| format!("{}, {}", case.name, case.variants[variant].name))?);
            }
        }
    }
    Ok(samples)
}

fn write(file: PathBuf, text: &str) -> Result<()> {
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("wrote {}", file.display());
    Ok(())
}
