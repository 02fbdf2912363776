//! `advise`: a process or a command, observed; what would make it faster, or that nothing would.

use super::trace::{self, Live};
use super::{as_failure_of_run, attach, run};
use crate::aggregate::Snapshot;
use crate::config::{AdviseConfig, AdviseSubject, Format};
use crate::export::{findings, json};
use crate::failure::Exit;
use anyhow::Result;

/// Observes, then tells the findings. Of a command that fails, its exit code is returned.
///
/// # Errors
/// Those of `attach` and `run`.
pub fn run(config: AdviseConfig) -> Result<u8> {
    match &config.subject {
        AdviseSubject::Process(_) => trace::block_on(advise(config)),
        AdviseSubject::Command(_) => trace::block_on(advise(config)).map_err(as_failure_of_run),
    }
}

async fn advise(config: AdviseConfig) -> Result<u8> {
    let (snapshot, format, code) = match &config.subject {
        AdviseSubject::Process(process) => {
            let mut observed = attach::observe(process, Live::sampling()).await?;
            (observed.session.snapshot(), process.trace.format, 0)
        }
        AdviseSubject::Command(command) => {
            let mut observed = run::observe(command, Live::sampling()).await?;
            (observed.session.snapshot(), command.trace.format, run::exit_code(observed.end))
        }
    };
    trace::print(&text(&snapshot, format))?;
    let found = snapshot.processes.iter().any(|process| !process.findings.is_empty());
    Ok(if code == 0 && found && config.fail_on_finding { Exit::Found as u8 } else { code })
}

fn text(snapshot: &Snapshot, format: Format) -> String {
    match format {
        Format::Json => json::line(snapshot, true),
        Format::Table => findings::advice(snapshot),
    }
}
