//! A case, a subject, threads and milliseconds into one line of JSON: the nanoseconds of an operation.
//!
//! ```text
//! pool-bench list                                  each case with its subjects
//! pool-bench CASE SUBJECT THREADS MILLISECONDS     one of them, measured
//! pool-bench event KIND MILLISECONDS               for tracers, see `event`
//! ```
//!
//! A process measures one subject once, so that none finds the heap as another left it; `cargo xtask bench pool`
//! takes them in turns.

mod anchor;
mod arena;
mod buffer;
mod cross;
mod event;
mod guarded;
mod held;
mod miss;
mod object;
mod region;
mod timing;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::env;
use std::time::Duration;
use timing::{Sample, Settings};

/// One subject of one case.
struct Subject {
    /// The case's name.
    case: &'static str,
    /// The subject's name.
    name: &'static str,
    /// With how many threads it is measured.
    threads: &'static [usize],
    /// Measures it.
    run: fn(&Settings) -> Result<Sample>,
}

fn subjects() -> Vec<Subject> {
    let all = [
        object::subjects(),
        held::subjects(),
        cross::subjects(),
        buffer::subjects(),
        arena::subjects(),
        region::subjects(),
        miss::subjects(),
    ];
    all.into_iter().flatten().collect()
}

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["list"] => list(),
        ["event", kind, milliseconds] => event::run(kind, milliseconds)?,
        [case, subject, threads, milliseconds] => one(case, subject, &settings(threads, milliseconds)?)?,
        _ => bail!("usage: pool-bench list | pool-bench CASE SUBJECT THREADS MILLISECONDS"),
    }
    Ok(())
}

fn list() {
    for subject in subjects() {
        println!("{}", json!({ "case": subject.case, "subject": subject.name, "threads": subject.threads }));
    }
}

fn settings(threads: &str, milliseconds: &str) -> Result<Settings> {
    let threads = threads.parse().context("threads are no number")?;
    let milliseconds = milliseconds.parse().context("milliseconds are no number")?;
    Ok(Settings { threads, time: Duration::from_millis(milliseconds) })
}

fn one(case: &str, name: &str, settings: &Settings) -> Result<()> {
    let all = subjects();
    let subject = all.iter().find(|subject| subject.case == case && subject.name == name);
    let sample = (subject.context("there is no such case or subject")?.run)(settings)?;
    println!("{}", json!({ "ns": sample.ns, "ops": sample.ops }));
    Ok(())
}
