//! Samples into a Markdown table and a JSON document.

use super::case::Case;
use super::sample::Sample;
use super::stats::{median, range};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// The tracer of interest.
const OWN: &str = "allocscope";

/// How far a count may be off: page faults of the program's own end and start are among them.
const TOLERANCE: f64 = 0.005;
const TOLERATED_EVENTS: u64 = 40;

/// One variant of one case over all rounds.
struct Row<'a> {
    name: &'static str,
    samples: Vec<&'a Sample>,
    ns: Vec<f64>,
    /// Per round.
    ratios: Vec<f64>,
    /// Per round.
    added_ns: Vec<f64>,
}

/// The whole text.
pub fn markdown(
    cases: &[Case],
    samples: &[Sample],
    rounds: u32,
    machine: &[(&'static str, String)],
    quick: bool,
) -> String {
    let mut text = String::from("# What tracing costs\n\n");
    if quick {
        text.push_str("**A trial run of tiny cases: these numbers mean nothing.**\n\n");
    }
    for (name, fact) in machine {
        let _ = writeln!(text, "- {name}: {fact}");
    }
    let _ = writeln!(
        text,
        "- rounds: {rounds}, interleaved; medians over rounds, ratios to untraced taken within a round\n\n\
         | case | tracer | ns per operation, median | min..max | ratio to untraced | added ns | \
         added, allocscope : this | events seen / done |\n|---|---|---:|---|---:|---:|---:|---|"
    );
    for (index, case) in cases.iter().enumerate() {
        for row in rows(case, index, samples) {
            text.push_str(&line(case, index, samples, &row));
        }
    }
    text.push_str(&notes(cases));
    text.push_str(&spans(cases, samples));
    text
}

fn rows<'a>(case: &Case, index: usize, samples: &'a [Sample]) -> Vec<Row<'a>> {
    let of = |variant: usize| samples.iter().filter(move |s| s.case == index && s.variant == variant);
    let base = |round: u32| of(0).find(|sample| sample.round == round).map(|sample| sample.ns);
    let row = |(variant, name): (usize, &'static str)| Row {
        name,
        samples: of(variant).collect(),
        ns: of(variant).map(|sample| sample.ns).collect(),
        ratios: of(variant).filter_map(|sample| Some(sample.ns / base(sample.round)?)).collect(),
        added_ns: of(variant).filter_map(|sample| Some(sample.ns - base(sample.round)?)).collect(),
    };
    case.variants.iter().map(|variant| variant.name).enumerate().map(row).collect()
}

fn line(case: &Case, index: usize, samples: &[Sample], row: &Row<'_>) -> String {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), short);
    let is_base = row.name == case.variants[0].name;
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
        "| {} (per {}) | {} | {} | {ends} | {ratio} | {added} | {} | {} |\n",
        case.name,
        case.unit,
        row.name,
        number(median(&row.ns)),
        against(case, index, samples, row),
        counts(row)
    )
}

/// What allocscope adds by what this tracer adds; meaningless where that is lost in noise.
fn against(case: &Case, index: usize, samples: &[Sample], row: &Row<'_>) -> String {
    if row.name == OWN || row.name == case.variants[0].name {
        return "-".to_owned();
    }
    let own = rows(case, index, samples).into_iter().find(|row| row.name == OWN);
    let own = own.and_then(|own| median(&own.added_ns));
    let base = rows(case, index, samples).first().and_then(|row| median(&row.ns)).unwrap_or(f64::MAX);
    match (own, median(&row.added_ns)) {
        (Some(own), Some(other)) if other > base * 0.01 => format!("{:.2}", own.max(0.0) / other),
        _ => "within noise".to_owned(),
    }
}

/// The worst round's.
fn counts(row: &Row<'_>) -> String {
    let worst = row.samples.iter().filter_map(|s| s.counts).max_by_key(|(seen, done)| seen.abs_diff(*done));
    worst.map_or("-".to_owned(), |(seen, done)| format!("{seen} / {done}"))
}

fn notes(cases: &[Case]) -> String {
    let mut notes: Vec<&str> = cases.iter().map(|case| case.note).filter(|note| !note.is_empty()).collect();
    notes.dedup();
    notes.iter().fold("\n".to_owned(), |text, note| text + "- " + note + "\n")
}

/// How long the tracers take to begin and to end.
fn spans(cases: &[Case], samples: &[Sample]) -> String {
    let mut text = "\n| tracer | start to tracing, ms | end to gone, ms |\n|---|---:|---:|\n".to_owned();
    for (name, is_own) in [(OWN, true), ("bpftrace", false)] {
        let of = |span: fn(&Sample) -> Option<Duration>| {
            let mine = samples.iter().filter(|s| (cases[s.case].variants[s.variant].name == OWN) == is_own);
            let ms: Vec<f64> = mine.filter_map(span).map(|span| span.as_secs_f64() * 1e3).collect();
            median(&ms).map_or("-".to_owned(), |ms| format!("{ms:.0}"))
        };
        let _ = writeln!(text, "| {name} | {} | {} |", of(|s| s.attach), of(|s| s.detach));
    }
    text.push_str("\nbpftrace says that it traces on a tick of 200 ms.\n");
    text
}

/// Three digits or more.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A sentence for each sample whose tracer missed something or saw too much.
pub fn miscounts(cases: &[Case], samples: &[Sample]) -> Vec<String> {
    let is_off = |(seen, done): (u64, u64)| {
        let off = seen.abs_diff(done);
        off > TOLERATED_EVENTS && off as f64 > done as f64 * TOLERANCE || seen == 0
    };
    let wrong =
        samples.iter().filter_map(|sample| Some((sample, sample.counts.filter(|&counts| is_off(counts))?)));
    let sentence = |(sample, (seen, done)): (&Sample, (u64, u64))| {
        let case = &cases[sample.case];
        format!(
            "{}, {}, round {}: {seen} of {done}",
            case.name,
            case.variants[sample.variant].name,
            sample.round + 1
        )
    };
    wrong.map(sentence).collect()
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
    let samples: Vec<Value> = samples
        .iter()
        .map(|sample| {
            let case = &cases[sample.case];
            json!({
                "case": case.name, "unit": case.unit, "tracer": case.variants[sample.variant].name,
                "round": sample.round, "ns": sample.ns,
                "seen": sample.counts.map(|(seen, _)| seen), "done": sample.counts.map(|(_, done)| done),
                "attach_seconds": sample.attach.map(|span| span.as_secs_f64()),
                "detach_seconds": sample.detach.map(|span| span.as_secs_f64()),
            })
        })
        .collect();
    let document = json!({ "schema": 1, "machine": machine, "rounds": rounds, "samples": samples });
    Ok(serde_json::to_string_pretty(&document).context("cannot write JSON")? + "\n")
}
