//! The words of `inspect` into what it looks at.

use std::ffi::OsString;
use std::path::PathBuf;

use super::probe::with_system_dir;
use super::{Color, Format, usage};
use crate::cli::inspect::InspectArgs;
use crate::failure::Failure;

/// What `inspect` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectConfig {
    /// What to look at.
    pub subject: Subject,
    /// Folders of separate debug files, the system's last.
    pub debug_dirs: Vec<PathBuf>,
    /// Show the plan of `--allow-small-cost`.
    pub allow_small_cost: bool,
    /// Show the plan of `--go-runtime`.
    pub go_runtime: bool,
    /// How to write the result.
    pub format: Format,
    /// Whether the result may have colour.
    pub color: Color,
}

/// What `inspect` looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A process; not 0.
    Pid(u32),
    /// An executable or library.
    File(PathBuf),
}

pub(super) fn config(args: InspectArgs, color: Color) -> Result<InspectConfig, Failure> {
    let subject = match args.pid {
        Some(pid) => Subject::Pid(pid),
        None => subject(args.subject.unwrap_or_default())?,
    };
    let debug_dirs = with_system_dir(args.debug_dir);
    let allow_small_cost = args.allow_small_cost;
    let go_runtime = args.go_runtime;
    Ok(InspectConfig { subject, debug_dirs, allow_small_cost, go_runtime, format: args.format.into(), color })
}

/// Digits only are a process id; a file with such a name is given as `./123`.
fn subject(word: OsString) -> Result<Subject, Failure> {
    if word.is_empty() {
        return Err(usage("`inspect` needs a process id or a file".to_owned()));
    }
    let Some(digits) = word.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) else {
        return Ok(Subject::File(word.into()));
    };
    match digits.parse() {
        Ok(0) | Err(_) => Err(usage(format!("{digits} is not a process id; write ./{digits} for a file"))),
        Ok(pid) => Ok(Subject::Pid(pid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Command;
    use crate::config::tests::config;
    use crate::failure::Exit;

    #[test]
    fn inspect_tells_processes_from_files() {
        let subject = |word: &str| match config(&format!("allocscope inspect {word}"))?.command {
            Command::Inspect(inspect) => Ok(inspect.subject),
            other => panic!("{other:?}"),
        };
        assert_eq!(subject("12").unwrap(), Subject::Pid(12));
        assert_eq!(subject("./12").unwrap(), Subject::File("./12".into()));
        assert_eq!(subject("12a").unwrap(), Subject::File("12a".into()));
        assert_eq!(subject("--pid 12").unwrap(), Subject::Pid(12));
        assert_eq!(subject("0").map_err(|failure: Failure| failure.exit), Err(Exit::Usage));
        assert_eq!(subject("99999999999").map_err(|failure| failure.exit), Err(Exit::Usage));
    }
}
