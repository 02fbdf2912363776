//! allocscope's JSON report, looked into by names.

pub use super::counts::Counts;
use serde_json::Value;
use std::fmt;

/// A report of a run.
#[derive(Clone, Debug)]
pub struct Report(pub Value);

/// One process of a report.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a>(pub &'a Value);

impl Report {
    /// The final report behind what else was written.
    pub fn last_in(stdout: &str) -> Self {
        let start = stdout.rfind("{\"schema\"").unwrap_or_else(|| panic!("no report in:\n{stdout}"));
        Self(serde_json::from_str(stdout[start..].lines().next().unwrap()).unwrap())
    }

    pub fn processes(&self) -> impl Iterator<Item = Process<'_>> {
        self.0["processes"].as_array().unwrap().iter().map(Process)
    }

    pub fn find(&self, pid: u64) -> Option<Process<'_>> {
        self.processes().find(|process| process.0["pid"] == pid)
    }

    pub fn process(&self, pid: u64) -> Process<'_> {
        self.find(pid).unwrap_or_else(|| panic!("no process {pid} in {self}"))
    }

    pub fn lost(&self, reason: &str) -> u64 {
        self.0["lost"][reason].as_u64().unwrap_or_else(|| panic!("no {reason} in {self}"))
    }

    /// Reasons and counts of all that was lost. That the list of slow allocations is not whole is no loss of counts, and
    /// happens where the machine is busy. So does a split that is told as `other`: of a goroutine's call, which one CPU
    /// moves to another thread while the first thread gets another one.
    pub fn losses(&self) -> Vec<(String, u64)> {
        let lost = self.0["lost"].as_object().unwrap();
        let counts = lost.iter().map(|(reason, count)| (reason.clone(), count.as_u64().unwrap()));
        let of_counts = |reason: &str| !matches!(reason, "slow_untold" | "split_uneven");
        counts.filter(|(reason, count)| *count > 0 && of_counts(reason)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'a> Process<'a> {
    /// An allocator's counts of the size class that begins there; zeros where it has none.
    pub fn counts(&self, allocator: &str, class_bytes: u64) -> Counts {
        Counts::of(self.0, allocator, class_bytes)
    }

    /// Seconds of a stage of an allocator's size class; 0 where it has none.
    pub fn stage_seconds(&self, allocator: &str, class_bytes: u64, stage: &str) -> f64 {
        self.row(allocator, class_bytes)
            .map_or(0.0, |row| row["stages"][stage]["time_seconds"].as_f64().unwrap_or(0.0))
    }

    /// A number of an allocator's size class, by where it is in the row; 0 where there is no such class.
    pub fn of_class(&self, allocator: &str, class_bytes: u64, pointer: &str) -> u64 {
        let number = |row: &Value| row.pointer(pointer).and_then(Value::as_u64);
        self.row(allocator, class_bytes)
            .map_or(0, |row| number(row).unwrap_or_else(|| panic!("{pointer} in {row}")))
    }

    fn row(&self, allocator: &str, class_bytes: u64) -> Option<&'a Value> {
        let mut rows = self.0["allocations"].as_array().unwrap().iter();
        rows.find(|row| row["allocator"] == allocator && row["size_bytes"] == class_bytes)
    }

    /// An allocator's size classes that have any counts.
    pub fn classes(&self, allocator: &str) -> Vec<u64> {
        let rows = self.0["allocations"].as_array().unwrap().iter();
        rows.filter(|row| row["allocator"] == allocator)
            .map(|row| row["size_bytes"].as_u64().unwrap())
            .collect()
    }

    /// Page faults of a kind (`minor`, `major`) and scope (`large`, `other`).
    pub fn faults(&self, kind: &str, scope: &str) -> u64 {
        self.of_faults(kind, scope, |row| row["count"].as_u64().unwrap())
    }

    /// Their time in seconds.
    pub fn fault_seconds(&self, kind: &str, scope: &str) -> f64 {
        self.of_faults(kind, scope, |row| row["time_seconds"].as_f64().unwrap())
    }

    fn of_faults<T: Default>(&self, kind: &str, scope: &str, take: impl Fn(&'a Value) -> T) -> T {
        let mut rows = self.0["faults"].as_array().unwrap().iter();
        rows.find(|row| row["kind"] == kind && row["scope"] == scope).map(take).unwrap_or_default()
    }

    /// A number by its name.
    pub fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.0))
    }
}
