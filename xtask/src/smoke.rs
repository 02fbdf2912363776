//! The release build traces a program: what the optimiser does differently must not break it.

use crate::run;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Blocks that are allocated and must be counted.
const BLOCKS: u64 = 3;

/// Builds it and runs it once.
pub fn main() -> Result<()> {
    run::shown(run::cargo().args(["build", "--release", "--package", "allocscope"]))?;
    let program = run::target_dir()?.join("release/allocscope");
    let mut command = run::as_root(&program.to_string_lossy());
    command.args(["run", "--format", "json", "--"]).arg(&program);
    command.args(["workload", "blocks", "--pin", "--count"]).arg(BLOCKS.to_string());
    let output = command.output().context("the release build does not run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the release build: {}: {said}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let report = report.rev().find(|line| line["final"] == true).context("it gave no report")?;
    let seen = blocks(&report).context("it saw no blocks")?;
    ensure!(seen == BLOCKS, "the release build saw {seen} blocks of {BLOCKS}: {report}");
    Ok(())
}

fn blocks(report: &Value) -> Option<u64> {
    let mut rows = report["processes"][0]["allocations"].as_array()?.iter();
    rows.find(|row| row["allocator"] == "glibc" && row["size"] == "64MiB")?["count"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_are_those_of_the_c_library_alone() {
        let row = |allocator, size, count| json!({ "allocator": allocator, "size": size, "count": count });
        let rows = [row("mmap", "64MiB", 9), row("glibc", "1MiB", 8), row("glibc", "64MiB", 3)];
        assert_eq!(blocks(&json!({ "processes": [{ "allocations": rows }] })), Some(3));
        assert_eq!(blocks(&json!({ "processes": [] })), None);
    }
}
