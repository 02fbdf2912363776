//! A snapshot and a budget into verdicts, and these into text for people and one line of JSON.

use super::quantile::{merged, upper_quantile_ns};
use super::rows::faults;
use super::table::{bytes, duration, finish, new_table};
use crate::aggregate::{ProcessSnapshot, Snapshot};
use crate::config::{Budget, BudgetUnit, Item, Measure, Timed};
use crate::intake::SeriesReading;
use allocscope_common::key::{Allocator, FaultKind, Series, Stage};
use serde::Serialize;

/// What came of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was kept.
    Within,
    /// It seems kept, but that cannot be known.
    Unjudged,
    /// It was broken.
    Over,
}

/// A limit, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged<'a> {
    /// The limit.
    pub item: &'a Item,
    /// What was measured, in the limit's unit; `None` where nothing was.
    pub figure: Option<f64>,
    /// What came of it.
    pub verdict: Verdict,
    /// Why it cannot be judged; empty otherwise.
    pub reason: String,
}

/// Judges every limit. Losses make counts and sums too small: a broken limit is then broken all the same, a kept
/// one is not known to be.
pub fn judge<'a>(budget: &'a Budget, snapshot: &Snapshot) -> Vec<Judged<'a>> {
    budget.items.iter().map(|item| judged(item, snapshot)).collect()
}

/// The worst of all.
pub fn verdict(judged: &[Judged<'_>]) -> Verdict {
    judged.iter().map(|judged| judged.verdict).max().unwrap_or(Verdict::Within)
}

fn judged<'a>(item: &'a Item, snapshot: &Snapshot) -> Judged<'a> {
    let measured = measure(item.measure, snapshot);
    let is_over = |figure: f64| figure > item.limit || (figure == item.limit && !item.is_inclusive);
    let (verdict, reason) = match measured.figure {
        Some(figure) if is_over(figure) => (Verdict::Over, String::new()),
        _ => match measured.doubt {
            Some(reason) => (Verdict::Unjudged, reason),
            None => (Verdict::Within, String::new()),
        },
    };
    Judged { item, figure: measured.figure, verdict, reason }
}

/// A figure, and why it may be too small.
struct Measured {
    figure: Option<f64>,
    doubt: Option<String>,
}

fn measure(measure: Measure, snapshot: &Snapshot) -> Measured {
    let lost: u64 = snapshot.lost.values().sum();
    let count = |figure: u64| Measured { figure: Some(figure as f64), doubt: doubt(snapshot, lost) };
    match measure {
        Measure::Lost => Measured { figure: Some(lost as f64), doubt: None },
        Measure::LargeAllocs => count(of_stage(snapshot, Stage::Call).totals.count),
        Measure::LargeBytes => count(of_stage(snapshot, Stage::Call).totals.bytes),
        Measure::TouchedBytes => {
            let live = live(snapshot, |live| live.touched_bytes);
            count(of_stage(snapshot, Stage::Touch).totals.bytes.saturating_add(live))
        }
        Measure::Faults => count(page_faults(snapshot, |_| true).totals.count),
        Measure::MajorFaults => count(page_faults(snapshot, |kind| kind == FaultKind::Major).totals.count),
        Measure::Rank(timed, rank) => {
            let figure = upper_quantile_ns(&series(snapshot, timed), rank.quantile());
            let unmeasured = || Some("nothing was measured, or not all that counts was timed".to_owned());
            Measured { figure, doubt: if figure.is_none() { unmeasured() } else { doubt(snapshot, lost) } }
        }
        Measure::Time(timed) => time(snapshot, &[timed], lost),
        Measure::TotalTime => time(snapshot, &[Timed::Call, Timed::Touch, Timed::Release], lost),
        Measure::ProbeCost => probe_cost(snapshot, lost),
    }
}

/// What makes every figure too small.
fn doubt(snapshot: &Snapshot, lost: u64) -> Option<String> {
    let partly =
        |process: &&ProcessSnapshot| process.coverage.sites_attached < process.coverage.sites_planned;
    if lost > 0 {
        Some(format!("tracing lost {lost} events or details"))
    } else if snapshot.tool.processes_over_limit > 0 {
        Some(format!("{} processes were not traced", snapshot.tool.processes_over_limit))
    } else if snapshot.processes.is_empty() {
        Some("no process was traced".to_owned())
    } else {
        let process = snapshot.processes.iter().find(partly)?;
        Some(format!("not every probe of process {} could be attached", process.info.id.pid))
    }
}

fn time(snapshot: &Snapshot, stages: &[Timed], lost: u64) -> Measured {
    let all = merged(stages.iter().map(|&timed| series(snapshot, timed)).collect::<Vec<_>>().iter());
    let of_live = if stages.contains(&Timed::Touch) { live(snapshot, |live| live.touch_ns) } else { 0 };
    let untimed = stages.contains(&Timed::Touch) && snapshot.processes.iter().any(has_untimed_faults);
    let unmeasured = || untimed.then(|| "some page faults were not timed".to_owned());
    Measured {
        figure: Some(all.totals.time_ns.saturating_add(of_live) as f64),
        doubt: doubt(snapshot, lost).or_else(unmeasured),
    }
}

fn probe_cost(snapshot: &Snapshot, lost: u64) -> Measured {
    let seconds: f64 =
        snapshot.processes.iter().map(|process| process.probe_cost_seconds(&snapshot.tool)).sum();
    let unpriced = snapshot.processes.iter().any(|process| process.has_unpriced_hits(&snapshot.tool));
    let unmeasured = || unpriced.then(|| "the price of some probes could not be measured".to_owned());
    Measured { figure: Some(seconds * 1e9), doubt: doubt(snapshot, lost).or_else(unmeasured) }
}

fn has_untimed_faults(process: &ProcessSnapshot) -> bool {
    process.counters.untimed_faults.iter().any(|&count| count > 0)
}

fn series(snapshot: &Snapshot, timed: Timed) -> SeriesReading {
    match timed {
        Timed::Call => of_stage(snapshot, Stage::Call),
        Timed::Touch => of_stage(snapshot, Stage::Touch),
        Timed::Release => of_stage(snapshot, Stage::Release),
        Timed::Fault => page_faults(snapshot, |_| true),
    }
}

/// All allocations' stage. Calls are those that a program asked for memory with: growth of a heap that serves them
/// would count twice. What a heap gives back is a release that nothing else tells.
fn of_stage(snapshot: &Snapshot, wanted: Stage) -> SeriesReading {
    let is_wanted = |series: &Series| match *series {
        Series::Stage { allocator, stage, .. } => {
            stage == wanted
                && match allocator {
                    Allocator::Brk | Allocator::Madvise => wanted == Stage::Release,
                    Allocator::Stack | Allocator::Reserve | Allocator::File => false,
                    _ => true,
                }
        }
        Series::Fault { .. } | Series::Runtime(_) | Series::Provider(_) => false,
    };
    let all = snapshot.processes.iter().flat_map(|process| &process.series);
    merged(all.filter(|(series, _)| is_wanted(series)).map(|(_, reading)| reading))
}

fn page_faults(snapshot: &Snapshot, is_wanted: impl Fn(FaultKind) -> bool) -> SeriesReading {
    let all = snapshot.processes.iter().flat_map(faults);
    merged(all.filter(|&(kind, ..)| is_wanted(kind)).map(|(_, _, reading)| reading))
}

fn live(snapshot: &Snapshot, take: impl Fn(&crate::intake::LiveTotals) -> u64) -> u64 {
    snapshot.processes.iter().flat_map(|process| process.live.values()).map(take).fold(0, u64::saturating_add)
}

/// A line for each limit.
pub fn table(judged: &[Judged<'_>]) -> String {
    let mut table = new_table(&["budget", "figure", "verdict"]);
    for judged in judged {
        table.add_row([judged.item.text.clone(), figure(judged), outcome(judged)]);
    }
    format!("Budget\n{}", finish(table, &[0, 2]))
}

/// The verdict, with the reason where there is one.
pub fn outcome(judged: &Judged<'_>) -> String {
    match judged.verdict {
        Verdict::Within => "within".to_owned(),
        Verdict::Over => "over".to_owned(),
        Verdict::Unjudged => format!("cannot be judged: {}", judged.reason),
    }
}

/// The figure in its unit.
pub fn figure(judged: &Judged<'_>) -> String {
    match (judged.figure, judged.item.measure.unit()) {
        (None, _) => "-".to_owned(),
        (Some(ns), BudgetUnit::Time) => duration(ns),
        (Some(count), BudgetUnit::Bytes) => bytes(count as u64),
        (Some(count), BudgetUnit::Events) => format!("{count:.0}"),
    }
}

/// One line, ended by a newline. Figures and limits are nanoseconds, bytes or events.
pub fn line(judged: &[Judged<'_>]) -> String {
    let document = Document { verdict: verdict(judged), budget: judged.iter().map(View::new).collect() };
    // Cannot fail: all keys are strings and nothing is written to but memory.
    serde_json::to_string(&document).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
struct Document<'a> {
    verdict: Verdict,
    budget: Vec<View<'a>>,
}

#[derive(Serialize)]
struct View<'a> {
    item: &'a str,
    name: String,
    inclusive: bool,
    limit: f64,
    figure: Option<f64>,
    unit: &'static str,
    verdict: Verdict,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

impl<'a> View<'a> {
    fn new(judged: &'a Judged<'_>) -> Self {
        let Judged { item, figure, verdict, reason } = judged;
        Self {
            item: &item.text,
            name: item.measure.to_string(),
            inclusive: item.is_inclusive,
            limit: item.limit,
            figure: *figure,
            unit: match item.measure.unit() {
                BudgetUnit::Time => "nanoseconds",
                BudgetUnit::Bytes => "bytes",
                BudgetUnit::Events => "events",
            },
            verdict: *verdict,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;
    use allocscope_common::counter::LossReason;

    /// Without what makes figures of the sample doubtful.
    fn sound() -> Snapshot {
        let mut snapshot = sample::snapshot();
        let process = &mut snapshot.processes[0];
        process.coverage.sites_attached = process.coverage.sites_planned;
        process.counters.untimed_faults = [0, 0];
        snapshot
    }

    fn told(text: &str, snapshot: &Snapshot) -> Vec<(String, Verdict)> {
        let budget: Budget = text.parse().unwrap();
        judge(&budget, snapshot).iter().map(|judged| (figure(judged), judged.verdict)).collect()
    }

    #[test]
    fn figures_are_sums_over_processes() {
        let limits = "large_allocs<4,large_bytes<=129MiB,touched_bytes<1GiB,faults<6,major_faults<1,lost<1,\
                      call_time<3s,release_time<=4ms,call_max<3s,first_touch_p99<1s";
        let expected = ["3", "129MiB", "80.0MiB", "5", "0", "0", "2.50s", "4.00ms", "2.50s", "24.0ms"];
        let told = told(limits, &sound());
        let figures: Vec<_> = told.iter().map(|(figure, _)| figure.as_str()).collect();
        assert_eq!(figures, expected);
        assert!(told.iter().all(|(_, verdict)| *verdict == Verdict::Within), "{told:?}");
    }

    #[test]
    fn touch_time_holds_that_of_live_ranges() {
        assert_eq!(told("touch_time<1s", &sound()), [("30.0ms".to_owned(), Verdict::Within)]);
        assert_eq!(told("total_time<2.6s", &sound())[0].1, Verdict::Within);
    }

    #[test]
    fn a_limit_is_over_from_where_it_says() {
        let verdicts = |text: &str| told(text, &sound())[0].1;
        assert_eq!(verdicts("large_allocs<3"), Verdict::Over);
        assert_eq!(verdicts("large_allocs<=3"), Verdict::Within);
        assert_eq!(verdicts("large_allocs<=2"), Verdict::Over);
    }

    #[test]
    fn a_median_is_its_buckets_upper_bound() {
        // Calls of 16 us, 18 us and 2.5 s: the second is 19,328 ticks of 2^-30 s long, and its bucket ends at
        // 2^(114/8) = 19,483 ticks.
        let (figure, verdict) = told("call_p50<1ms", &sound()).remove(0);
        assert_eq!((figure.as_str(), verdict), ("18.1us", Verdict::Within));
    }

    #[test]
    fn what_may_be_more_is_not_within() {
        let mut lossy = sound();
        lossy.lost.insert(LossReason::RangesFull, 2);
        let budget: Budget = "large_allocs<100,faults<2,lost<3,release_p99<1s".parse().unwrap();
        let judged = judge(&budget, &lossy);
        let verdicts: Vec<_> = judged.iter().map(|judged| judged.verdict).collect();
        assert_eq!(verdicts, [Verdict::Unjudged, Verdict::Over, Verdict::Within, Verdict::Unjudged]);
        assert_eq!(outcome(&judged[0]), "cannot be judged: tracing lost 2 events or details");
        assert_eq!(verdict(&judged), Verdict::Over);
    }

    #[test]
    fn what_was_not_measured_is_not_within() {
        let mut snapshot = sound();
        snapshot.processes.iter_mut().for_each(|process| process.series.clear());
        assert_eq!(told("first_touch_p99<5ms", &snapshot), [("-".to_owned(), Verdict::Unjudged)]);
        assert_eq!(told("large_allocs<1", &snapshot)[0].1, Verdict::Within);
        assert_eq!(told("large_allocs<1", &Snapshot::default())[0].1, Verdict::Unjudged);
        let mut untimed = sound();
        untimed.processes[0].counters.untimed_faults = [1, 0];
        assert_eq!(told("touch_time<1s", &untimed)[0].1, Verdict::Unjudged);
        // Of five faults one was not timed: it may be the longest, it is not the median.
        assert_eq!(told("fault_max<1s", &untimed)[0].1, Verdict::Unjudged);
        assert_eq!(told("fault_p50<1s", &untimed)[0].1, Verdict::Within);
        let mut unattached = sound();
        unattached.processes[0].coverage.sites_attached = 0;
        assert_eq!(told("large_allocs<9", &unattached)[0].1, Verdict::Unjudged);
        let mut unpriced = sound();
        unpriced.tool.probe_price_ns.clear();
        assert_eq!(told("probe_cost<1s", &unpriced)[0].1, Verdict::Unjudged);
    }

    #[test]
    fn the_table_and_the_line_tell_the_same() {
        let budget: Budget = "first_touch_p99<5ms,faults<=1e6".parse().unwrap();
        let snapshot = sound();
        let judged = judge(&budget, &snapshot);
        let expected = "\
Budget
| budget              | figure | verdict |
|---------------------|--------|---------|
| first_touch_p99<5ms | 24.0ms | over    |
| faults<=1e6         |      5 | within  |
";
        assert_eq!(table(&judged), expected, "\n{}", table(&judged));
        let document: serde_json::Value = serde_json::from_str(&line(&judged)).unwrap();
        assert_eq!(document["verdict"], "over");
        assert_eq!(document["budget"][0]["name"], "first_touch_p99");
        assert_eq!(
            (&document["budget"][0]["limit"], &document["budget"][1]["figure"]),
            (&5e6.into(), &5.0.into())
        );
        assert_eq!(document["budget"][1]["verdict"], "within");
    }
}
