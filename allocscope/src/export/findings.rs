//! Findings into text for people: what could be saved, what that rests on, and what to set.

use super::names::size_label;
use super::table::{WIDTH, bytes, duration, headline};
use crate::aggregate::{Figure, Finding, ProcessSnapshot, Snapshot};
use allocscope_common::key::{FaultScope, Series, Stage};
use std::fmt::Write;

/// Left of a finding's lines.
const INDENT: &str = "   ";
/// Left of what follows a line's name.
const NAME: usize = 10;

/// The answer to `advise`: the processes that have findings, or one line on what was looked at.
pub fn advice(snapshot: &Snapshot) -> String {
    let told: Vec<_> = snapshot.processes.iter().filter(|process| !process.findings.is_empty()).collect();
    if told.is_empty() {
        return nothing(snapshot);
    }
    let section =
        |process: &&ProcessSnapshot| format!("{}\n\n{}\n", headline(process, snapshot), findings(process));
    told.iter().map(section).collect()
}

/// A process' findings, numbered.
pub fn findings(process: &ProcessSnapshot) -> String {
    if process.findings.is_empty() {
        return "none\n".to_owned();
    }
    let numbered = process.findings.iter().enumerate();
    numbered.map(|(index, finding)| text(index + 1, finding)).collect()
}

fn nothing(snapshot: &Snapshot) -> String {
    let (mut allocations, mut faults) = (0u64, 0u64);
    for (series, reading) in snapshot.processes.iter().flat_map(|process| &process.series) {
        match series {
            Series::Stage { stage: Stage::Call, .. } => allocations += reading.totals.count,
            Series::Fault { scope: FaultScope::Large, .. } => faults += reading.totals.count,
            _ => {}
        }
    }
    let (processes, seconds) = (snapshot.processes.len(), snapshot.elapsed.as_secs_f64());
    format!(
        "no findings: looked at {allocations} large allocations and {faults} page faults in them, of {processes} \
         process{}, over {seconds:.1} s\n",
        if processes == 1 { "" } else { "es" }
    )
}

fn text(number: usize, finding: &Finding) -> String {
    let sizes: Vec<_> = finding.size_classes.iter().map(|&class| size_label(class)).collect();
    let saves = match finding.recoverable {
        Some(seconds) => format!("saves about {} a second", duration(seconds * 1e9)),
        None => "saves no time".to_owned(),
    };
    let mut text =
        format!("{number}. {}, {} {}: {saves}\n", finding.kind.name(), finding.allocator, sizes.join(" "));
    let figures: Vec<_> = finding.figures.iter().map(figure).collect();
    add(&mut text, "what", &finding.summary);
    add(&mut text, "rests on", &figures.join(", "));
    for (name, value) in &finding.setting.environment {
        // A line of its own, however long: it is there to be copied.
        let _ = writeln!(text, "{INDENT}{:NAME$}{name}={value}", "set");
    }
    let label = if finding.setting.environment.is_empty() { "change" } else { "" };
    add(&mut text, label, &finding.setting.text);
    add(&mut text, "risk", &finding.risk);
    add(&mut text, "check", &finding.check);
    text
}

/// `name_with_unit` into `name with unit value`; the unit is the name's end.
fn figure(figure: &Figure) -> String {
    let Figure { name, value } = *figure;
    let (name, value) = if let Some(name) = name.strip_suffix("_seconds_per_second") {
        (name, format!("{}/s", duration(value * 1e9)))
    } else if let Some(name) = name.strip_suffix("_seconds") {
        (name, duration(value * 1e9))
    } else if let Some(name) = name.strip_suffix("_bytes") {
        (name, bytes(value as u64))
    } else if let Some(name) = name.strip_suffix("_ratio") {
        (name, format!("{:.1}%", 100.0 * value))
    } else {
        (name, format!("{value:.0}"))
    };
    format!("{} {value}", name.replace('_', " "))
}

/// A named line, continued below its beginning where it is long.
fn add(text: &mut String, name: &str, words: &str) {
    let mut line = format!("{INDENT}{name:NAME$}");
    let empty = line.len();
    for word in words.split_whitespace() {
        if line.len() > empty && line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = " ".repeat(empty);
        }
        line += if line.len() > empty { " " } else { "" };
        line += word;
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;

    #[test]
    fn a_finding_is_this_text() {
        let mut process = sample::snapshot().processes.remove(0);
        process.findings = vec![sample::finding()];
        assert_eq!(findings(&process), GOLDEN, "\n{}", findings(&process));
    }

    #[test]
    fn without_findings_it_says_what_was_looked_at() {
        let snapshot = sample::snapshot();
        let line = "no findings: looked at 3 large allocations and 4 page faults in them, of 2 processes, over 10.0 s\n";
        assert_eq!(advice(&snapshot), line);
        assert_eq!(findings(&snapshot.processes[0]), "none\n");
    }

    #[test]
    fn only_processes_with_findings_are_told() {
        let mut snapshot = sample::snapshot();
        snapshot.processes[1].findings = vec![sample::finding(), sample::finding()];
        let text = advice(&snapshot);
        assert!(text.starts_with("batch (pid 4300, ended)") && !text.contains("server"), "{text}");
        assert!(text.contains("\n2. threshold_churn"), "{text}");
    }

    const GOLDEN: &str = "\
1. threshold_churn, glibc 1MiB 64MiB: saves about 280ms a second
   what      memory is given back
   rests on  observed 10.0s, releases 99, touch 250ms/s, kept 128MiB, huge touch 25.0%
   set       GLIBC_TUNABLES=glibc.malloc.mmap_threshold=134217728
             in the program: mallopt, and some more words that are here to fill the line, so that it goes on in the next
             one
   risk      more memory
   check     again
";
}
