//! `bench`: what tracing costs, by allocscope and by its peers, in one interleaved run.
//!
//! Each round runs every case once with every tracer, in an order that rotates; ratios are taken within a
//! round and the median is over rounds, so that what else the machine does hits all alike.

mod bcc;
mod case;
mod crowd;
mod go;
mod machine;
mod overhead;
mod peer;
mod pool;
mod report;
mod sample;
mod stages;
mod stats;
mod tracer;

use crate::{run, setup};
use anyhow::{Context as _, Result, bail};
use case::Case;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use sample::Sample;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::{env, fs};

/// Measure what tracing costs, beside other tracers.
#[derive(clap::Args)]
pub struct Args {
    /// The cases.
    #[arg(value_enum, default_value_t = Set::Bench)]
    set: Set,
    /// How often each case is run with each tracer.
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Where the table (SET.md) and the samples (SET.json) go [default: bench in the target folder].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Only the cases whose names contain this; may be given more than once.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// One round of tiny cases: shows that everything works, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Trace also with these options of `allocscope attach`, as one more tracer in each case;
    /// may be given more than once.
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    also: Vec<String>,
    /// What this task passes to itself when it goes on as root.
    #[arg(long, hide = true)]
    is_built: bool,
}

/// Which cases.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Set {
    /// Page faults and mappings, of the traced process and of others, and Go.
    Bench,
    /// Faults, large blocks with all stages joined, and a daemon among 200 processes that allocate nothing large.
    Stages,
    /// Small and large blocks of glibc, jemalloc, mimalloc, tcmalloc and Go, beside bpftrace and bcc.
    Overhead,
    /// Pools and arenas beside those of others, and what tracing them costs.
    Pool,
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Self::Bench => "bench",
            Self::Stages => "stages",
            Self::Overhead => "overhead",
            Self::Pool => "pool",
        }
    }
}

/// Runs the task.
pub fn main(args: &Args) -> Result<()> {
    if !args.is_built {
        setup::prepare_build()?;
        setup::prepare_bench()?;
        if args.set == Set::Overhead {
            setup::prepare_bcc();
        }
        run::shown(run::cargo().args(["build", "--release", "--package", "allocscope"]))?;
        if args.set == Set::Pool {
            pool::build()?;
        }
    }
    if !run::is_root() {
        return Err(become_root());
    }
    accept_interrupts()?;
    let cases = chosen_cases(args)?;
    let rounds = if args.quick { 1 } else { args.rounds };
    let machine = machine::facts();
    let pools = measured_pools(args, rounds)?;
    let samples = measure(&cases, rounds)?;
    let folder = args.output.clone().map_or_else(|| Ok(run::target_dir()?.join("bench")), anyhow::Ok)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let traced = pool::Traced { cases: &cases, samples: &samples };
    let table = match &pools {
        Some(pools) => pool::markdown(pools, &traced, rounds, &machine, args.quick),
        None => report::markdown(&cases, &samples, rounds, &machine, args.quick),
    };
    write(folder.join(format!("{}.md", args.set.name())), &table)?;
    let document = match &pools {
        Some(pools) => pool::json(pools, &traced, rounds, &machine)?,
        None => report::json(&cases, &samples, rounds, &machine)?,
    };
    write(folder.join(format!("{}.json", args.set.name())), &document)?;
    print!("{table}");
    match report::miscounts(&cases, &samples).as_slice() {
        [] => Ok(()),
        lines => {
            bail!("a tracer did not count what it should, so its times mean nothing:\n{}", lines.join("\n"))
        }
    }
}

/// Pools and arenas, where they are asked for.
fn measured_pools(args: &Args, rounds: u32) -> Result<Option<pool::Measured>> {
    let options = pool::Options { quick: args.quick, rounds, only: &args.only };
    (args.set == Set::Pool).then(|| pool::measure(&options)).transpose()
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

/// Where this runs in a shell's background, SIGINT is ignored; the tracers would inherit that, and some
/// of them would then not end when told to.
fn accept_interrupts() -> Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action is no code of this process.
    unsafe { sigaction(Signal::SIGINT, &action) }.context("cannot accept Ctrl-C")?;
    Ok(())
}

fn chosen_cases(args: &Args) -> Result<Vec<Case>> {
    let mut cases = match args.set {
        Set::Bench => plain_cases(args.quick)?,
        Set::Stages => stages::cases(&run::target_dir()?.join("release/allocscope"), args.quick),
        Set::Overhead => {
            let has_bcc = setup::bcc_version().is_some();
            overhead::cases(&overhead::Options { quick: args.quick, has_bcc })?
        }
        Set::Pool => pool::event_cases(args.quick)?,
    };
    let is_chosen = |case: &Case| args.only.iter().any(|text| case.name.contains(text.as_str()));
    cases.iter_mut().for_each(|case| case::add_extra(case, &args.also));
    cases.retain(|case| args.only.is_empty() || is_chosen(case));
    if cases.is_empty() && args.set != Set::Pool {
        bail!("no case has such a name");
    }
    Ok(cases)
}

fn plain_cases(quick: bool) -> Result<Vec<Case>> {
    let program = run::target_dir()?.join("release/allocscope");
    let mut cases = case::native(&program, quick);
    cases.extend(go::cases(quick)?);
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
