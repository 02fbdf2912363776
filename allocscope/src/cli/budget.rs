//! `--budget` into limits: `first_touch_p99<5ms,large_allocs<1000` into what is compared with what.

use std::fmt;
use std::str::FromStr;

/// Limits on what a run may cost, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// In the order given.
    pub items: Vec<Item>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// As it was written, without spaces around.
    pub text: String,
    /// What is measured.
    pub measure: Measure,
    /// Whether the limit itself is within.
    pub is_inclusive: bool,
    /// In nanoseconds, bytes or events.
    pub limit: f64,
}

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Large allocations: objects and mappings, not stacks, heap growth or reserved addresses.
    LargeAllocs,
    /// Bytes that these asked for.
    LargeBytes,
    /// Bytes that page faults made real in them.
    TouchedBytes,
    /// All page faults.
    Faults,
    /// Those with I/O.
    MajorFaults,
    /// A percentile, or the longest.
    Rank(Timed, Rank),
    /// All time of a stage.
    Time(Timed),
    /// Call, first touch and release together.
    TotalTime,
    /// What tracing has cost, as estimated.
    ProbeCost,
    /// What the kernel side has lost.
    Lost,
}

/// What has a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// The allocator's call.
    Call,
    /// All page faults of one allocation.
    Touch,
    /// The release.
    Release,
    /// One page fault.
    Fault,
}

/// Which of the durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The median.
    P50,
    /// 90th percentile.
    P90,
    /// 99th percentile.
    P99,
    /// The longest.
    Max,
}

impl Rank {
    /// As a part of all.
    pub const fn quantile(self) -> f64 {
        match self {
            Self::P50 => 0.50,
            Self::P90 => 0.90,
            Self::P99 => 0.99,
            Self::Max => 1.0,
        }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Events.
    Events,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Time,
}

/// Every name, in the order of the help text.
const NAMES: [(&str, Measure); 26] = [
    ("large_allocs", Measure::LargeAllocs),
    ("large_bytes", Measure::LargeBytes),
    ("touched_bytes", Measure::TouchedBytes),
    ("faults", Measure::Faults),
    ("major_faults", Measure::MajorFaults),
    ("call_p50", Measure::Rank(Timed::Call, Rank::P50)),
    ("call_p90", Measure::Rank(Timed::Call, Rank::P90)),
    ("call_p99", Measure::Rank(Timed::Call, Rank::P99)),
    ("call_max", Measure::Rank(Timed::Call, Rank::Max)),
    ("first_touch_p50", Measure::Rank(Timed::Touch, Rank::P50)),
    ("first_touch_p90", Measure::Rank(Timed::Touch, Rank::P90)),
    ("first_touch_p99", Measure::Rank(Timed::Touch, Rank::P99)),
    ("first_touch_max", Measure::Rank(Timed::Touch, Rank::Max)),
    ("release_p50", Measure::Rank(Timed::Release, Rank::P50)),
    ("release_p90", Measure::Rank(Timed::Release, Rank::P90)),
    ("release_p99", Measure::Rank(Timed::Release, Rank::P99)),
    ("release_max", Measure::Rank(Timed::Release, Rank::Max)),
    ("fault_p50", Measure::Rank(Timed::Fault, Rank::P50)),
    ("fault_p99", Measure::Rank(Timed::Fault, Rank::P99)),
    ("fault_max", Measure::Rank(Timed::Fault, Rank::Max)),
    ("call_time", Measure::Time(Timed::Call)),
    ("touch_time", Measure::Time(Timed::Touch)),
    ("release_time", Measure::Time(Timed::Release)),
    ("total_time", Measure::TotalTime),
    ("probe_cost", Measure::ProbeCost),
    ("lost", Measure::Lost),
];

/// For the end of `run --help`.
pub const HELP: &str = "\
Budgets: limits separated by commas, each a name, < or <=, and a number. Times have a unit (ns, us, ms, s), bytes
may (KiB, MiB, GiB, or none), counts have none; 1e6 is a number.
  large_allocs large_bytes touched_bytes    allocations of --min-size on, by malloc, Go or mmap
  faults major_faults                       page faults
  call_p50 call_p90 call_p99 call_max       time of an allocation's call
  first_touch_p50 ..._p90 ..._p99 ..._max   all page faults of an allocation, of those released or replaced
  release_p50 release_p90 release_p99 release_max
  fault_p50 fault_p99 fault_max             one page fault
  call_time touch_time release_time total_time   sums; touch_time with that of what is live at the end
  probe_cost                                what tracing has cost the command, as estimated
  lost                                      events that tracing has lost
They are of the command and, unless --no-follow-children is given, its children. A percentile is told as the upper
bound of its histogram bucket, up to 9.1 % above the true value, so that a limit is never kept by luck. A limit
that is kept but cannot be judged (nothing was measured, something was lost or not timed) is no success.";

impl Measure {
    /// What its figure counts.
    pub const fn unit(self) -> Unit {
        match self {
            Self::LargeAllocs | Self::Faults | Self::MajorFaults | Self::Lost => Unit::Events,
            Self::LargeBytes | Self::TouchedBytes => Unit::Bytes,
            Self::Rank(..) | Self::Time(_) | Self::TotalTime | Self::ProbeCost => Unit::Time,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = NAMES.iter().find(|(_, measure)| measure == self);
        f.write_str(known.map_or("", |(name, _)| name))
    }
}

impl FromStr for Budget {
    type Err = String;

    /// Fails with a sentence that names the item.
    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(|item| item.trim().parse()).collect::<Result<Vec<Item>, _>>()?;
        for (index, item) in items.iter().enumerate() {
            if items[..index].iter().any(|earlier| earlier.measure == item.measure) {
                return Err(format!("{} is limited twice", item.measure));
            }
        }
        Ok(Self { items })
    }
}

impl FromStr for Item {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, limit)) = text.split_once('<') else {
            return Err(format!("`{text}` is not a limit: a name, < or <=, and a number are needed"));
        };
        let measure = measure(name.trim())?;
        let (is_inclusive, limit) = match limit.strip_prefix('=') {
            Some(rest) => (true, rest),
            None => (false, limit),
        };
        let limit = quantity(limit.trim(), measure.unit())
            .map_err(|wanted| format!("`{text}`: {} is {wanted}", measure))?;
        Ok(Self { text: text.to_owned(), measure, is_inclusive, limit })
    }
}

fn measure(name: &str) -> Result<Measure, String> {
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known.map(|&(_, measure)| measure).ok_or_else(|| {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        format!("`{name}` is no figure; there are {}", names.join(", "))
    })
}

/// A number with a unit; fails with what would have been one.
fn quantity(text: &str, unit: Unit) -> Result<f64, &'static str> {
    let (units, wanted): (&[(&str, f64)], _) = match unit {
        Unit::Time => {
            (&[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)], "a time with a unit, such as 5ms")
        }
        Unit::Bytes => (
            &[("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0), ("", 1.0)],
            "a number of bytes with or without a unit, such as 64MiB",
        ),
        Unit::Events => (&[("", 1.0)], "a count without a unit, such as 1000 or 1e6"),
    };
    let value =
        units.iter().find_map(|(unit, scale)| Some(number(text.strip_suffix(unit)?.trim_end())? * scale));
    value.ok_or(wanted)
}

/// Digits, at most one point, an exponent: no sign, no name of a number.
fn number(text: &str) -> Option<f64> {
    let starts = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let is_plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    text.parse::<f64>().ok().filter(|value| starts && is_plain && value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<(Measure, bool, f64)> {
        let budget: Budget = text.parse().unwrap();
        budget.items.iter().map(|item| (item.measure, item.is_inclusive, item.limit)).collect()
    }

    #[test]
    fn limits_have_names_operators_and_units() {
        let touch = Measure::Rank(Timed::Touch, Rank::P99);
        let parsed = items("first_touch_p99<5ms, large_allocs<=1000 ,faults<1e6");
        assert_eq!(
            parsed,
            [(touch, false, 5e6), (Measure::LargeAllocs, true, 1000.0), (Measure::Faults, false, 1e6)]
        );
        assert_eq!(items("call_max<1.5us"), [(Measure::Rank(Timed::Call, Rank::Max), false, 1500.0)]);
        assert_eq!(items("large_bytes<2 GiB"), [(Measure::LargeBytes, false, 2_147_483_648.0)]);
        assert_eq!(items("large_bytes<64"), [(Measure::LargeBytes, false, 64.0)]);
        assert_eq!(items("total_time<1s"), [(Measure::TotalTime, false, 1e9)]);
        assert_eq!(items("lost<=0"), [(Measure::Lost, true, 0.0)]);
    }

    #[test]
    fn what_is_wrong_is_said_of_the_item() {
        let cases = [
            ("", "`` is not a limit: a name, < or <=, and a number are needed"),
            ("faults>3", "`faults>3` is not a limit: a name, < or <=, and a number are needed"),
            ("faults<1,", "`` is not a limit: a name, < or <=, and a number are needed"),
            ("faults<1,faults<=2", "faults is limited twice"),
            ("faults<many", "`faults<many`: faults is a count without a unit, such as 1000 or 1e6"),
            ("faults<-1", "`faults<-1`: faults is a count without a unit, such as 1000 or 1e6"),
            ("faults<5ms", "`faults<5ms`: faults is a count without a unit, such as 1000 or 1e6"),
            ("faults<1e999", "`faults<1e999`: faults is a count without a unit, such as 1000 or 1e6"),
            ("faults<inf", "`faults<inf`: faults is a count without a unit, such as 1000 or 1e6"),
            ("call_p99<5", "`call_p99<5`: call_p99 is a time with a unit, such as 5ms"),
            ("call_p99<5m", "`call_p99<5m`: call_p99 is a time with a unit, such as 5ms"),
            ("call_p99<<5ms", "`call_p99<<5ms`: call_p99 is a time with a unit, such as 5ms"),
            (
                "large_bytes<5MB",
                "`large_bytes<5MB`: large_bytes is a number of bytes with or without a unit, such as 64MiB",
            ),
        ];
        for (text, sentence) in cases {
            assert_eq!(text.parse::<Budget>(), Err(sentence.to_owned()), "{text}");
        }
        let unknown = "latency<5ms".parse::<Budget>().unwrap_err();
        assert!(unknown.starts_with("`latency` is no figure; there are large_allocs, "), "{unknown}");
    }

    #[test]
    fn every_name_is_in_the_help() {
        for (name, measure) in NAMES {
            let (stem, _) = name.rsplit_once('_').unwrap_or((name, ""));
            assert!(HELP.contains(name) || HELP.contains(&format!("{stem}_p50")), "{name}");
            assert_eq!(measure.to_string(), name);
        }
    }
}
