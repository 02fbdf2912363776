//! `run --budget`: a finished run into verdicts, printed and written down, and these into an exit code.

use super::trace;
use crate::aggregate::Snapshot;
use crate::config::{Budget, Format, RunConfig};
use crate::export::budget::{Judged, Verdict, judge, line, table, verdict};
use crate::export::junit;
use crate::failure::{Exit, Failure};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// The limits of a run, and where to write what came of them.
pub struct Gate<'a> {
    budget: &'a Budget,
    junit: Option<(&'a Path, File)>,
    command: String,
    format: Format,
}

impl<'a> Gate<'a> {
    /// Where there are limits. The file is made now: a run is not to end before that is found impossible.
    ///
    /// # Errors
    /// [`Exit::RunFailed`] where the file cannot be made.
    pub fn new(config: &'a RunConfig) -> Result<Option<Self>> {
        let Some(budget) = &config.budget else { return Ok(None) };
        let junit = config.junit.as_deref().map(create).transpose()?;
        let command = config.program.to_string_lossy().into_owned();
        Ok(Some(Self { budget, junit, command, format: config.trace.format }))
    }

    /// Tells what came of the limits and returns the exit code: the command's own where it failed.
    ///
    /// # Errors
    /// Where what came of them cannot be written.
    pub fn judge(self, snapshot: &Snapshot, exit_code: u8) -> Result<u8> {
        let judged = judge(self.budget, snapshot);
        trace::print(&match self.format {
            Format::Json => line(&judged),
            Format::Table => table(&judged),
        })?;
        let code = code(exit_code, verdict(&judged));
        self.write_junit(&judged, exit_code)?;
        Ok(code)
    }

    fn write_junit(self, judged: &[Judged<'_>], exit_code: u8) -> Result<()> {
        let Some((path, mut file)) = self.junit else { return Ok(()) };
        let xml = junit::xml(judged, &self.command, exit_code)?;
        file.write_all(xml.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn create(path: &Path) -> Result<(&Path, File)> {
    let file = File::create(path).map_err(|error| {
        Failure::error(Exit::RunFailed, format!("{} cannot be made: {error}", path.display()))
    })?;
    Ok((path, file))
}

fn code(of_command: u8, verdict: Verdict) -> u8 {
    match (of_command, verdict) {
        (0, Verdict::Over) => Exit::OverBudget as u8,
        (0, Verdict::Unjudged) => Exit::Unjudged as u8,
        (code, _) => code,
    }
}
