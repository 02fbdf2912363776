//! What a program knows of itself and what allocscope reports of it into comparisons that add up or fail.

pub use counts::Counts;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::fmt;

#[path = "../../../allocscope/tests/support/counts.rs"]
mod counts;

/// A program that was traced: its truth, the report, and what was compared so far.
pub struct Traced<'a> {
    /// What the program printed.
    pub truth: &'a Value,
    report: &'a Value,
    compared: Counts,
    faults: Option<(u64, u64)>,
}

/// A number by its name; 0 where there is none.
pub fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or(0)
}

/// The elements of an array by its name; none where it is missing.
pub fn elements<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

impl<'a> Traced<'a> {
    /// Finds both among a check's lines.
    pub fn find(lines: &'a [Value]) -> Result<Self> {
        let truth = lines.iter().find(|line| line["pid"].is_u64()).context("the program printed nothing")?;
        let report = lines.iter().rev().find(|line| line["schema"].is_u64()).context("there is no report")?;
        Ok(Self { truth, report, compared: Counts::default(), faults: None })
    }

    /// A traced process.
    pub fn process(&self, pid: u64) -> Result<&'a Value> {
        let process = elements(self.report, "processes").iter().find(|process| process["pid"] == pid);
        process.with_context(|| format!("process {pid} is not in the report"))
    }

    fn own(&self) -> Result<&'a Value> {
        self.process(number(self.truth, "pid"))
    }

    /// An allocator's size classes that have any counts.
    pub fn classes(&self, allocator: &str) -> Result<Vec<u64>> {
        let rows = elements(self.own()?, "allocations").iter();
        let own = rows.filter(|row| row["allocator"] == allocator);
        Ok(own.map(|row| number(row, "size_bytes")).collect())
    }

    /// Compares an allocator's counts of a size class.
    pub fn expect(&mut self, allocator: &str, class: u64, expected: Counts) -> Result<()> {
        let counted = Counts::of(self.own()?, allocator, class);
        if counted != expected {
            bail!("{allocator} of {class}: {counted:?} and not {expected:?}");
        }
        let sum = &mut self.compared;
        sum.calls += counted.calls;
        sum.touches += counted.touches;
        sum.releases += counted.releases;
        Ok(())
    }

    /// Compares an allocator's calls of a size class and their bytes, where releases are not known.
    pub fn expect_calls(&mut self, allocator: &str, class: u64, expected: (u64, u64)) -> Result<()> {
        let counted = Counts::of(self.own()?, allocator, class);
        let calls = (counted.calls, counted.bytes);
        ensure!(calls == expected, "{allocator} of {class}: {calls:?} calls and bytes and not {expected:?}");
        self.compared.calls += counted.calls;
        Ok(())
    }

    /// Compares all that was lost, by reason.
    pub fn expect_lost(&self, expected: &[(&str, u64)]) -> Result<()> {
        let lost = self.report["lost"].as_object().context("the report has no losses")?;
        let counts = lost.iter().map(|(reason, count)| (reason.as_str(), count.as_u64().unwrap_or(u64::MAX)));
        let counted: Vec<_> = counts.filter(|&(_, count)| count > 0).collect();
        ensure!(counted == expected, "lost {counted:?} and not {expected:?}");
        Ok(())
    }

    /// That nothing was lost for one of these reasons.
    pub fn expect_none_lost(&self, reasons: &[&str]) -> Result<()> {
        for reason in reasons {
            let count = self.report["lost"][reason].as_u64();
            ensure!(count == Some(0), "{reason}: {count:?}");
        }
        Ok(())
    }

    /// How uprobes were attached.
    pub fn attached_via(&self) -> Result<&'a str> {
        self.report["tool"]["attached_via"].as_str().context("no uprobe was attached")
    }

    /// The tier that the process' allocator is traced in.
    pub fn expect_tier(&self, tier: &str) -> Result<()> {
        let coverage = &self.own()?["coverage"];
        ensure!(coverage["tier"] == tier, "not of tier {tier}: {coverage}");
        Ok(())
    }

    /// Faults in large ranges against the pages touched, within 0.5 %.
    pub fn expect_attributed(&mut self, pages: u64) -> Result<()> {
        let faults = faults(self.own()?, "large");
        ensure!(faults.abs_diff(pages) * 200 <= pages, "{faults} faults in {pages} pages");
        self.faults = Some((faults, pages));
        Ok(())
    }

    /// Faults outside of large ranges: at least so many.
    pub fn expect_others(&mut self, pages: u64) -> Result<()> {
        let faults = faults(self.own()?, "other");
        ensure!(faults >= pages, "{faults} faults elsewhere, for {pages} pages");
        self.faults = Some((faults, pages));
        Ok(())
    }

    /// All faults that the kernel counted for the program, and not many more: its start and end.
    pub fn expect_the_kernels_faults(&self) -> Result<()> {
        let own = &self.truth["faults"];
        let counted = number(own, "minor") + number(own, "major");
        let seen = number(&self.own()?["coverage"], "faults_seen");
        ensure!((counted..counted + 2_000).contains(&seen), "{seen} faults seen of {counted}");
        Ok(())
    }
}

/// What was compared.
impl fmt::Display for Traced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { calls, touches, releases, .. } = self.compared;
        write!(f, "{calls} calls, {touches} touches, {releases} releases counted exactly")?;
        match self.faults {
            Some((faults, pages)) => write!(f, ", {faults} faults for {pages} pages"),
            None => Ok(()),
        }
    }
}

/// Page faults of a scope, `large` or `other`.
pub fn faults(process: &Value, scope: &str) -> u64 {
    let rows = elements(process, "faults").iter().filter(|row| row["scope"] == scope);
    rows.map(|row| number(row, "count")).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(calls: u64) -> [Value; 2] {
        let stages = json!({"call": {"count": calls}, "touch": {"count": 2}, "release": {"count": 2}});
        let row = json!({"allocator": "mmap", "size_bytes": 8, "count": calls, "bytes": 16, "released_bytes": 16, "stages": stages});
        let fault = json!({"scope": "large", "count": 1000});
        let process = json!({"pid": 7, "allocations": [row], "faults": [fault]});
        [json!({"pid": 7}), json!({"schema": 1, "processes": [process], "lost": {"range_split": 0}})]
    }

    #[test]
    fn equal_counts_pass_and_others_do_not() {
        let equal = lines(2);
        let mut traced = Traced::find(&equal).unwrap();
        traced.expect("mmap", 8, Counts::whole(2, 8)).unwrap();
        traced.expect_attributed(1004).unwrap();
        assert!(traced.expect_attributed(1010).is_err());
        let off = lines(3);
        assert!(Traced::find(&off).unwrap().expect("mmap", 8, Counts::whole(2, 8)).is_err());
        assert!(Traced::find(&off).unwrap().expect("brk", 8, Counts::whole(2, 8)).is_err());
        assert!(Traced::find(&off[..1]).is_err());
    }

    #[test]
    fn losses_are_compared_whole() {
        let lines = lines(2);
        let traced = Traced::find(&lines).unwrap();
        traced.expect_lost(&[]).unwrap();
        assert!(traced.expect_lost(&[("range_split", 1)]).is_err());
        assert!(traced.expect_none_lost(&["a reason that is not there"]).is_err());
    }
}
