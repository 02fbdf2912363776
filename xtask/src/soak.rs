//! `soak`: the tests that compare counts with the truth, again and again.

use crate::{setup, test};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Go programs and native allocators: what a race or a rare path would show in.
const TESTS: [&str; 2] = ["go", "native"];

/// Compare counts with the truth for a long time.
#[derive(clap::Args)]
pub struct Args {
    /// How long, in minutes.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
}

/// Runs the task; a failure does not end it, and is told at the end.
pub fn main(args: &Args) -> Result<()> {
    setup::prepare_tests()?;
    let end = Instant::now() + Duration::from_secs(args.minutes * 60);
    let (mut rounds, mut failed) = (0, 0);
    while Instant::now() < end {
        rounds += 1;
        if let Err(error) = test::integration(&TESTS) {
            failed += 1;
            eprintln!("round {rounds} failed: {error:#}");
        }
    }
    if failed > 0 {
        bail!("{failed} of {rounds} rounds failed");
    }
    eprintln!("all {rounds} rounds passed");
    Ok(())
}
