//! bpftrace, the peer of the benchmark.

use super::{Item, debian};
use crate::run;
use anyhow::Result;
use std::process::Command;

/// bpftrace as Debian has it.
pub struct Bpftrace;

impl Item for Bpftrace {
    fn name(&self) -> String {
        "bpftrace".into()
    }

    fn present(&self) -> Option<String> {
        run::prints(Command::new("bpftrace").arg("--version"))
    }

    fn install(&self) -> Result<()> {
        debian::install(&["bpftrace"])
    }
}
