//! Prometheus text of one histogram family into calls by frames on the stack.

use std::collections::BTreeMap;

/// Bounds that a histogram may have; allocscope's has eight.
const MAX_BOUNDS: usize = 64;
/// Bytes of text that are looked at.
const MAX_TEXT: usize = 64 << 20;
/// Labels of a series that are looked at.
const MAX_LABELS: usize = 64;

/// The family that allocscope exports with `--stack-depth`.
pub const STACK_FRAMES: &str = "allocscope_allocation_stack_frames";

/// Calls by frames on the stack when they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Inclusive upper bound of frames, and calls up to it and above the bound before; the last is `u64::MAX`.
    buckets: Vec<(u64, u64)>,
}

/// Why a text is no histogram of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramesError {
    /// There is no series of the family with these labels.
    Absent,
    /// A line of the family is not as the format wants it, or counts contradict each other.
    Malformed,
    /// The text is longer, or has more bounds, than is looked at.
    TooLarge,
}

impl FramesError {
    /// In words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Absent => "the text has no such histogram",
            Self::Malformed => "the histogram's text is malformed",
            Self::TooLarge => "the histogram's text is too large",
        }
    }
}

impl Frames {
    /// Calls by inclusive upper bounds, which ascend; calls above the last bound have `u64::MAX`.
    pub fn new(buckets: Vec<(u64, u64)>) -> Result<Self, FramesError> {
        if buckets.len() > MAX_BOUNDS {
            return Err(FramesError::TooLarge);
        }
        let ascend = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let calls = buckets.iter().try_fold(0u64, |sum, &(_, calls)| sum.checked_add(calls));
        if ascend && calls.is_some() { Ok(Self { buckets }) } else { Err(FramesError::Malformed) }
    }

    /// The sum of the histograms of a family whose series have all these labels.
    pub fn parse(text: &str, family: &str, labels: &[(&str, &str)]) -> Result<Self, FramesError> {
        if text.len() > MAX_TEXT {
            return Err(FramesError::TooLarge);
        }
        let mut cumulative: BTreeMap<u64, u64> = BTreeMap::new();
        for line in text.lines() {
            let series = line.strip_prefix(family).and_then(|rest| rest.strip_prefix("_bucket{"));
            let Some(series) = series else { continue };
            let Some((bound, calls)) = bucket(series, labels)? else { continue };
            let sum = cumulative.entry(bound).or_default();
            *sum = sum.checked_add(calls).ok_or(FramesError::Malformed)?;
            if cumulative.len() > MAX_BOUNDS {
                return Err(FramesError::TooLarge);
            }
        }
        Self::of_cumulative(cumulative)
    }

    fn of_cumulative(cumulative: BTreeMap<u64, u64>) -> Result<Self, FramesError> {
        match cumulative.last_key_value() {
            None => return Err(FramesError::Absent),
            Some((&last, _)) if last != u64::MAX => return Err(FramesError::Malformed),
            Some(_) => {}
        }
        let mut below = 0;
        let difference = |(bound, calls): (u64, u64)| {
            let own = calls.checked_sub(below).ok_or(FramesError::Malformed)?;
            below = calls;
            Ok((bound, own))
        };
        Ok(Self { buckets: cumulative.into_iter().map(difference).collect::<Result<_, _>>()? })
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.buckets.iter().map(|&(_, calls)| calls).sum()
    }

    /// The frames that a share of the calls has at most, rounded up to a bound; `None` without calls.
    pub fn at_most(&self, share: f64) -> Option<u64> {
        let calls = self.calls();
        let wanted = ((calls as f64 * share).ceil() as u64).clamp(1, calls.max(1));
        let mut sum = 0;
        let reached = |&&(_, calls): &&(u64, u64)| {
            sum += calls;
            sum >= wanted
        };
        self.buckets.iter().find(reached).map(|&(bound, _)| bound)
    }

    /// Calls since an earlier histogram; all of them where it is not an earlier one of the same process.
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        let same = self.buckets.len() == earlier.buckets.len()
            && pairs.clone().all(|(new, old)| new.0 == old.0 && new.1 >= old.1);
        if !same {
            return self.clone();
        }
        Self { buckets: pairs.map(|(new, old)| (new.0, new.1 - old.1)).collect() }
    }
}

/// Bound and cumulative count of what follows `family_bucket{`; `None` where labels differ.
fn bucket(series: &str, wanted: &[(&str, &str)]) -> Result<Option<(u64, u64)>, FramesError> {
    let (labels, value) = labels_of(series).ok_or(FramesError::Malformed)?;
    let has = |(name, value): &(&str, &str)| labels.iter().any(|(n, v)| n == name && v == value);
    if !wanted.iter().all(has) {
        return Ok(None);
    }
    let bound = labels.iter().find(|(name, _)| *name == "le").and_then(|(_, bound)| frames(bound));
    let calls = value.split(' ').find(|word| !word.is_empty()).and_then(whole);
    bound.zip(calls).map(Some).ok_or(FramesError::Malformed)
}

/// An upper bound: a whole number of frames, or `+Inf`.
fn frames(bound: &str) -> Option<u64> {
    if bound == "+Inf" { Some(u64::MAX) } else { whole(bound) }
}

/// A count, which the format writes as a float.
fn whole(number: &str) -> Option<u64> {
    const EXACT: f64 = (1u64 << 53) as f64;
    let number: f64 = number.parse().ok()?;
    ((0.0..=EXACT).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

/// `name="value",...} rest`: the labels without escapes, and the rest.
fn labels_of(mut series: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        series = series.strip_prefix(',').unwrap_or(series);
        if let Some(rest) = series.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = series.split_once("=\"")?;
        let (value, rest) = quoted(rest)?;
        if labels.len() == MAX_LABELS {
            return None;
        }
        labels.push((name, value));
        series = rest;
    }
}

/// A text up to its closing quote, and what is after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = r#"# TYPE f histogram
f_bucket{pid="1",comm="a} \"b\", c",allocator="go",le="8"} 3
f_bucket{pid="1",comm="a} \"b\", c",allocator="go",le="15"} 5
f_bucket{pid="1",comm="a} \"b\", c",allocator="go",le="+Inf"} 6
f_bucket{pid="1",comm="x",allocator="glibc",le="8"} 1e+01
f_bucket{pid="1",comm="x",allocator="glibc",le="15"} 10 1700000000
f_bucket{pid="1",comm="x",allocator="glibc",le="+Inf"} 10
f_bucket{pid="2",comm="x",allocator="glibc",le="+Inf"} 7
f_sum{pid="1"} 9
g_bucket{le="+Inf"} 100
"#;

    fn parse(labels: &[(&str, &str)]) -> Result<Frames, FramesError> {
        Frames::parse(TEXT, "f", labels)
    }

    #[test]
    fn series_are_chosen_by_labels_and_summed() {
        let go = Frames { buckets: vec![(8, 3), (15, 2), (u64::MAX, 1)] };
        assert_eq!(parse(&[("comm", "a} \"b\", c")]), Ok(go));
        assert_eq!(parse(&[("pid", "1")]).unwrap().buckets, [(8, 13), (15, 2), (u64::MAX, 1)]);
        assert_eq!(parse(&[("pid", "2")]).unwrap().calls(), 7);
        assert_eq!(parse(&[("pid", "3")]), Err(FramesError::Absent));
        assert_eq!(Frames::parse("", "f", &[]), Err(FramesError::Absent));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for text in [
            "f_bucket{le=\"8\"} 5\nf_bucket{le=\"+Inf\"} 4",
            "f_bucket{le=\"8\"} 5",
            "f_bucket{le=\"8.5\"} 5",
            "f_bucket{le=\"-1\"} 5",
            "f_bucket{le=\"NaN\"} 5",
            "f_bucket{le=\"+Inf\"} NaN",
            "f_bucket{le=\"+Inf\"} 1e300",
            "f_bucket{le=\"+Inf\"} ",
            "f_bucket{le=\"+Inf\"",
            "f_bucket{le=\"+Inf\\",
            "f_bucket{",
            "f_bucket{} 1",
        ] {
            assert_eq!(Frames::parse(text, "f", &[]), Err(FramesError::Malformed), "{text}");
        }
        let many: String = (0..100).map(|le| format!("f_bucket{{le=\"{le}\"}} 1\n")).collect();
        assert_eq!(Frames::parse(&many, "f", &[]), Err(FramesError::TooLarge));
        let labels = "a=\"\",".repeat(100);
        assert_eq!(
            Frames::parse(&format!("f_bucket{{{labels}le=\"+Inf\"}} 1"), "f", &[]),
            Err(FramesError::Malformed)
        );
    }

    #[test]
    fn a_share_is_reached_at_a_bound() {
        let frames = Frames::new(vec![(8, 3), (15, 2), (u64::MAX, 1)]).unwrap();
        let at = [0.0, 0.5, 0.51, 0.83, 0.84, 1.0].map(|share| frames.at_most(share).unwrap());
        assert_eq!(at, [8, 8, 15, 15, u64::MAX, u64::MAX]);
        assert_eq!(Frames::new(vec![(8, 0)]).unwrap().at_most(0.5), None);
        assert_eq!(Frames::default().at_most(0.5), None);
    }

    #[test]
    fn bounds_ascend_and_counts_fit() {
        assert_eq!(Frames::new(vec![(8, 1), (8, 1)]), Err(FramesError::Malformed));
        assert_eq!(Frames::new(vec![(8, u64::MAX), (9, 1)]), Err(FramesError::Malformed));
        assert_eq!(Frames::new((0..65).map(|bound| (bound, 1)).collect()), Err(FramesError::TooLarge));
    }

    #[test]
    fn a_process_that_began_anew_is_taken_whole() {
        let frames = |a, b| Frames::new(vec![(8, a), (u64::MAX, b)]).unwrap();
        assert_eq!(frames(5, 9).since(&frames(2, 9)), frames(3, 0));
        assert_eq!(frames(5, 1).since(&frames(2, 9)), frames(5, 1));
        assert_eq!(frames(5, 1).since(&Frames::default()), frames(5, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        /// Not in Miri, where patterns of text are slow to make.
        #[cfg(not(miri))]
        #[test]
        fn no_text_panics(text in "(f_bucket|f|\\{|le=|\"|[0-9]{1,20}|\\+Inf|\\}| |\\\\|,|\n|é){0,30}") {
            let _ = Frames::parse(&text, "f", &[("le", "1")]);
            let _ = Frames::parse(&format!("f_bucket{{{text}"), "f", &[]);
        }

        #[test]
        fn what_is_written_is_read(calls in prop::collection::vec(0u64..1_000_000, 1..8)) {
            let bound = |at: usize| if at + 1 == calls.len() { u64::MAX } else { 1 << at };
            let buckets: Vec<_> = calls.iter().enumerate().map(|(at, &calls)| (bound(at), calls)).collect();
            let mut sum = 0;
            let mut text = String::new();
            for &(bound, calls) in &buckets {
                sum += calls;
                let le = if bound == u64::MAX { "+Inf".to_owned() } else { bound.to_string() };
                text.push_str(&format!("f_bucket{{le=\"{le}\"}} {sum}\n"));
            }
            prop_assert_eq!(Frames::parse(&text, "f", &[]).unwrap(), Frames::new(buckets).unwrap());
        }
    }
}
