//! Samples into a Markdown table and a JSON document.

use super::case::{Case, Counts, OWN};
use super::sample::{Hits, Outcome, Sample};
use super::stats::{median, range};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// How far a count may be off: page faults of the program's own end and start are among them.
const TOLERANCE: f64 = 0.005;
const TOLERATED_EVENTS: u64 = 40;

/// One variant of one case over all rounds.
struct Row<'a> {
    name: &'a str,
    outcomes: Vec<&'a Outcome>,
    /// In how many rounds the tracer did not trace, and of how many.
    failed: (usize, usize),
    ns: Vec<f64>,
    /// Per round.
    ratios: Vec<f64>,
    /// Per round.
    added_ns: Vec<f64>,
}

/// A table's title, with what it was measured on.
pub fn heading(title: &str, machine: &[(&'static str, String)], quick: bool) -> String {
    let mut text = format!("# {title}\n\n");
    if quick {
        text.push_str("**A trial run of tiny cases: these numbers mean nothing.**\n\n");
    }
    for (name, fact) in machine {
        let _ = writeln!(text, "- {name}: {fact}");
    }
    text
}

/// The whole text.
pub fn markdown(
    cases: &[Case],
    samples: &[Sample],
    rounds: u32,
    machine: &[(&'static str, String)],
    quick: bool,
) -> String {
    let mut text = heading("What tracing costs", machine, quick);
    let _ = writeln!(
        text,
        "- rounds: {rounds}, interleaved; medians over rounds, ratios to untraced taken within a round\n\n\
         | case | tracer | ns per operation, median | min..max | ratio to untraced | added ns | \
         added, allocscope : this | events seen / done | its probe hits per operation (stepped) |\n\
         |---|---|---:|---|---:|---:|---:|---|---|"
    );
    for (index, case) in cases.iter().enumerate() {
        for row in rows(case, index, samples) {
            text.push_str(&line(case, index, samples, &row));
        }
    }
    text.push_str(&notes(cases));
    text.push_str(&failures(cases, samples));
    text.push_str(&spans(cases, samples));
    text
}

fn rows<'a>(case: &'a Case, index: usize, samples: &'a [Sample]) -> Vec<Row<'a>> {
    (0..case.variants.len()).map(|variant| row(case, (index, variant), samples)).collect()
}

fn row<'a>(case: &'a Case, (index, variant): (usize, usize), samples: &'a [Sample]) -> Row<'a> {
    let of = |variant: usize| samples.iter().filter(move |s| s.case == index && s.variant == variant);
    let good =
        |variant: usize| of(variant).filter_map(|sample| Some((sample.round, sample.outcome.as_ref().ok()?)));
    let base = |round: u32| good(0).find(|(other, _)| *other == round).map(|(_, outcome)| outcome.ns);
    let (all, outcomes) =
        (of(variant).count(), good(variant).map(|(_, outcome)| outcome).collect::<Vec<_>>());
    Row {
        name: &case.variants[variant].name,
        failed: (all - outcomes.len(), all),
        ns: outcomes.iter().map(|outcome| outcome.ns).collect(),
        outcomes,
        ratios: good(variant).filter_map(|(round, outcome)| Some(outcome.ns / base(round)?)).collect(),
        added_ns: good(variant).filter_map(|(round, outcome)| Some(outcome.ns - base(round)?)).collect(),
    }
}

fn line(case: &Case, index: usize, samples: &[Sample], row: &Row<'_>) -> String {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), short);
    let is_base = row.name == case.variants[0].name;
    if row.outcomes.is_empty() {
        return format!(
            "| {} (per {}) | {} | did not trace | - | - | - | - | - | - |\n",
            case.name, case.unit, row.name
        );
    }
    let ends =
        range(&row.ns).map_or("-".to_owned(), |(low, high)| format!("{}..{}", short(low), short(high)));
    let (ratio, added) = if is_base {
        ("1".to_owned(), "-".to_owned())
    } else {
        (
            median(&row.ratios).map_or("-".to_owned(), |ratio| format!("{ratio:.3}")),
            number(median(&row.added_ns)),
        )
    };
    format!(
        "| {} (per {}) | {} | {} | {ends} | {ratio} | {added} | {} | {} | {} |\n",
        case.name,
        case.unit,
        row.name,
        number(median(&row.ns)),
        against(case, index, samples, row),
        counts(row),
        hits(row)
    )
}

/// What allocscope adds by what this tracer adds; meaningless where that is lost in noise.
fn against(case: &Case, index: usize, samples: &[Sample], row: &Row<'_>) -> String {
    if row.name == OWN || row.name == case.variants[0].name {
        return "-".to_owned();
    }
    let own = rows(case, index, samples).into_iter().find(|row| row.name == OWN);
    // What does not count does not compare.
    if own.as_ref().is_some_and(|own| own.outcomes.iter().any(|o| o.counts.is_some_and(|c| !c.is_promised))) {
        return "-".to_owned();
    }
    let own = own.and_then(|own| median(&own.added_ns));
    let base = rows(case, index, samples).first().and_then(|row| median(&row.ns)).unwrap_or(f64::MAX);
    match (own, median(&row.added_ns)) {
        (Some(own), Some(other)) if other > base * 0.01 => format!("{:.2}", own.max(0.0) / other),
        _ => "within noise".to_owned(),
    }
}

/// The worst round's.
fn counts(row: &Row<'_>) -> String {
    let all = row.outcomes.iter().filter_map(|outcome| outcome.counts);
    match all.max_by_key(|counts| counts.seen.abs_diff(counts.done)) {
        Some(Counts { seen, done, is_promised: true }) => format!("{seen} / {done}"),
        Some(Counts { seen, done, .. }) => format!("{seen} / {done}, not probed"),
        None => "-".to_owned(),
    }
}

/// The middle round's, all and those that are single-stepped.
fn hits(row: &Row<'_>) -> String {
    let of = |part: fn(&Hits) -> f64| {
        let values: Vec<f64> =
            row.outcomes.iter().filter_map(|outcome| outcome.hits.as_ref().map(part)).collect();
        median(&values)
    };
    match (of(|hits| hits.emulated + hits.stepped), of(|hits| hits.stepped)) {
        (Some(all), Some(stepped)) => format!("{all:.4} ({stepped:.4})"),
        _ => "-".to_owned(),
    }
}

fn notes(cases: &[Case]) -> String {
    let mut notes: Vec<&str> = cases.iter().map(|case| case.note).filter(|note| !note.is_empty()).collect();
    notes.dedup();
    notes.iter().fold("\n".to_owned(), |text, note| text + "- " + note + "\n")
}

/// A line for each tracer that did not trace in some round, with the last reason.
fn failures(cases: &[Case], samples: &[Sample]) -> String {
    let mut text = String::new();
    for (index, case) in cases.iter().enumerate() {
        for row in rows(case, index, samples).iter().filter(|row| row.failed.0 > 0) {
            let mine =
                samples.iter().filter(|s| s.case == index && case.variants[s.variant].name == row.name);
            let reason = mine.filter_map(|sample| sample.outcome.as_ref().err()).next_back();
            let (failed, all) = row.failed;
            let _ = writeln!(
                text,
                "- {}: {} did not trace in {failed} of {all} rounds: {}",
                case.name,
                row.name,
                reason.map_or("", String::as_str)
            );
        }
    }
    text
}

/// How long the tracers take to begin and to end.
fn spans(cases: &[Case], samples: &[Sample]) -> String {
    let mut text = "\n| tracer | start to tracing, ms | end to gone, ms |\n|---|---:|---:|\n".to_owned();
    let tool = |sample: &Sample| cases[sample.case].variants[sample.variant].tracer.tool();
    let mut tools: Vec<&str> = samples.iter().map(tool).collect();
    tools.sort_unstable();
    tools.dedup();
    for name in tools {
        let of = |span: fn(&Outcome) -> Option<Duration>| {
            let mine = samples.iter().filter(|sample| tool(sample) == name);
            let spans = mine.filter_map(|sample| span(sample.outcome.as_ref().ok()?));
            median(&spans.map(|span| span.as_secs_f64() * 1e3).collect::<Vec<_>>())
        };
        if let (Some(attach), Some(detach)) = (of(|outcome| outcome.attach), of(|outcome| outcome.detach)) {
            let _ = writeln!(text, "| {name}{} | {attach:.0} | {detach:.0} |", tick(name));
        }
    }
    text
}

/// How late a tracer may say that it traces.
fn tick(tool: &str) -> &'static str {
    match tool {
        "bpftrace" => ", says so on a tick of 200 ms",
        "bcc memleak" => ", says so on a tick of 1 s",
        _ => "",
    }
}

/// Three digits or more.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A sentence for each sample whose tracer missed something it says it sees, or saw too much, and for
/// each where allocscope itself did not trace.
pub fn miscounts(cases: &[Case], samples: &[Sample]) -> Vec<String> {
    let sentence = |sample: &Sample| {
        let case = &cases[sample.case];
        let variant = &case.variants[sample.variant];
        let fault = match &sample.outcome {
            Ok(outcome) => {
                outcome.counts.filter(is_off).map(|Counts { seen, done, .. }| format!("{seen} of {done}"))
            }
            Err(reason) => (variant.tracer.tool() == OWN).then(|| format!("did not trace: {reason}")),
        }?;
        Some(format!("{}, {}, round {}: {fault}", case.name, variant.name, sample.round + 1))
    };
    samples.iter().filter_map(sentence).collect()
}

fn is_off(counts: &Counts) -> bool {
    let Counts { seen, done, is_promised } = *counts;
    let off = seen.abs_diff(done);
    let is_wrong = off > TOLERATED_EVENTS && off as f64 > done as f64 * TOLERANCE;
    is_promised && (is_wrong || (seen == 0 && done > 0))
}

/// Every sample.
pub fn json(
    cases: &[Case],
    samples: &[Sample],
    rounds: u32,
    machine: &[(&'static str, String)],
) -> Result<String> {
    let machine: serde_json::Map<String, Value> =
        machine.iter().map(|(name, fact)| ((*name).to_owned(), json!(fact))).collect();
    let samples: Vec<Value> = samples.iter().map(|sample| sample_json(&cases[sample.case], sample)).collect();
    let document = json!({ "schema": 2, "machine": machine, "rounds": rounds, "samples": samples });
    Ok(serde_json::to_string_pretty(&document).context("cannot write JSON")? + "\n")
}

fn sample_json(case: &Case, sample: &Sample) -> Value {
    let outcome = sample.outcome.as_ref().ok();
    let counts = outcome.and_then(|outcome| outcome.counts);
    let hits = outcome.and_then(|outcome| outcome.hits);
    let seconds =
        |span: fn(&Outcome) -> Option<Duration>| outcome.and_then(span).map(|span| span.as_secs_f64());
    json!({
        "case": case.name, "unit": case.unit, "tracer": case.variants[sample.variant].name,
        "round": sample.round, "ns": outcome.map(|outcome| outcome.ns),
        "failure": sample.outcome.as_ref().err(),
        "seen": counts.map(|counts| counts.seen), "done": counts.map(|counts| counts.done),
        "seen_is_promised": counts.map(|counts| counts.is_promised),
        "emulated_hits_per_op": hits.map(|hits| hits.emulated),
        "stepped_hits_per_op": hits.map(|hits| hits.stepped),
        "attach_seconds": seconds(|outcome| outcome.attach),
        "detach_seconds": seconds(|outcome| outcome.detach),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_must_be_seen() {
        assert!(!is_off(&Counts::new(100, 100)));
        assert!(!is_off(&Counts::new(100_400, 100_000)));
        assert!(is_off(&Counts::new(0, 10)));
        assert!(is_off(&Counts::new(99_000, 100_000)));
        assert!(!is_off(&Counts { seen: 0, done: 10, is_promised: false }));
    }
}
