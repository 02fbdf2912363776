//! `bench pool`: allocscope's pools and arenas beside others, each measured by a process of its own, in turns.

mod events;
mod goal;
mod program;
mod report;

pub use events::cases as event_cases;

use super::sample as traced;
use super::stats::median;
use super::{Case, report as tracing};
use anyhow::{Context as _, Result};
use program::Subject;
use serde_json::{Value, json};

/// Of one sample; long enough for thousands of chunks, short enough for many rounds.
const MILLISECONDS: u32 = 80;
const QUICK_MILLISECONDS: u32 = 2;

/// What ours is called.
const OWN: &str = "allocscope";
/// The same without probes.
const NO_PROBES: &str = "allocscope, built without probes";

/// What one process told.
struct Sample {
    subject: usize,
    threads: u64,
    round: u32,
    ns: f64,
}

/// All that was measured.
pub struct Measured {
    subjects: Vec<Subject>,
    samples: Vec<Sample>,
}

/// What is asked for.
pub struct Options<'a> {
    /// Tiny ones, once.
    pub quick: bool,
    /// How often each is measured.
    pub rounds: u32,
    /// Only the cases whose names contain one of these.
    pub only: &'a [String],
}

/// Builds what is measured.
pub fn build() -> Result<()> {
    program::build_rust()
}

/// Measures all subjects, in an order that rotates with each round.
pub fn measure(options: &Options<'_>) -> Result<Measured> {
    let mut subjects = program::subjects()?;
    let is_chosen = |case: &str| options.only.iter().any(|text| case.contains(text.as_str()));
    subjects.retain(|subject| options.only.is_empty() || is_chosen(&subject.case));
    let mut samples = Vec::new();
    for round in 0..options.rounds {
        eprintln!("pools, round {} of {}", round + 1, options.rounds);
        let first = round as usize * 7;
        for turn in 0..subjects.len() {
            let index = (turn + first) % subjects.len();
            samples.extend(one(&subjects[index], index, round, options.quick)?);
        }
    }
    Ok(Measured { subjects, samples })
}

fn one(subject: &Subject, index: usize, round: u32, quick: bool) -> Result<Vec<Sample>> {
    let milliseconds = if quick { QUICK_MILLISECONDS } else { MILLISECONDS };
    let sample = |&threads: &u64| {
        let ns = subject.measure(threads, milliseconds)?;
        Ok(Sample { subject: index, threads, round, ns })
    };
    subject.threads.iter().map(sample).collect()
}

impl Measured {
    /// The rounds of one subject.
    fn rounds(&self, subject: usize, threads: u64) -> Vec<f64> {
        let is_it = |sample: &&Sample| sample.subject == subject && sample.threads == threads;
        self.samples.iter().filter(is_it).map(|sample| sample.ns).collect()
    }

    /// Their median.
    fn median(&self, subject: usize, threads: u64) -> Option<f64> {
        median(&self.rounds(subject, threads))
    }

    /// The same by names.
    fn median_of(&self, case: &str, name: &str, threads: u64) -> Option<f64> {
        self.median(self.named(case, name)?, threads)
    }

    fn named(&self, case: &str, name: &str) -> Option<usize> {
        self.subjects.iter().position(|subject| subject.case == case && subject.name == name)
    }

    /// A subject's time by ours of the same case, taken within a round; the median.
    fn ratio(&self, subject: usize, threads: u64) -> Option<f64> {
        let own = self.rounds(self.named(&self.subjects[subject].case, OWN)?, threads);
        let ratios = self.rounds(subject, threads).into_iter().zip(own).map(|(this, own)| this / own);
        median(&ratios.collect::<Vec<_>>())
    }

    fn json(&self) -> Vec<Value> {
        let sample = |sample: &Sample| {
            let subject = &self.subjects[sample.subject];
            json!({
                "case": subject.case, "subject": subject.name, "threads": sample.threads,
                "round": sample.round, "ns": sample.ns,
            })
        };
        self.samples.iter().map(sample).collect()
    }
}

/// What traces large events, and what it told.
pub struct Traced<'a> {
    /// The cases.
    pub cases: &'a [Case],
    /// Their samples.
    pub samples: &'a [traced::Sample],
}

/// The whole text: what is to be reached, pools and arenas, tracers.
pub fn markdown(
    measured: &Measured,
    traced: &Traced<'_>,
    rounds: u32,
    machine: &[(&'static str, String)],
    quick: bool,
) -> String {
    let events = tracing::markdown(traced.cases, traced.samples, rounds, &[], quick);
    let goals = goal::table(measured, traced);
    report::markdown(measured, rounds, machine, quick) + "\n" + &goals + "\n" + &events
}

/// Every sample.
pub fn json(
    measured: &Measured,
    traced: &Traced<'_>,
    rounds: u32,
    machine: &[(&'static str, String)],
) -> Result<String> {
    let events = tracing::json(traced.cases, traced.samples, rounds, machine)?;
    let mut document: Value = serde_json::from_str(&events).context("cannot read JSON again")?;
    document["pools"] = Value::Array(measured.json());
    Ok(serde_json::to_string_pretty(&document).context("cannot write JSON")? + "\n")
}
