//! The words of `run` into what it does.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Budget, Color, TraceOptions, trace, usage};
use crate::cli::run::RunArgs;
use crate::failure::Failure;

/// What `run` does.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// The program: a path, or a name to look up in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Environment variables for it alone.
    pub environment: Vec<(String, String)>,
    /// Limits to compare the run with.
    pub budget: Option<Budget>,
    /// The file for what came of them, as JUnit XML.
    pub junit: Option<PathBuf>,
    /// What to trace and how to tell it.
    pub trace: TraceOptions,
}

pub(super) fn config(args: RunArgs, color: Color) -> Result<RunConfig, Failure> {
    let (program, arguments) = command_of(args.command)?;
    let trace = trace::options(args.trace, !args.no_follow_children, color);
    let (budget, junit) = (args.budget, args.junit);
    Ok(RunConfig { program, arguments, environment: args.env, budget, junit, trace })
}

/// A program and its arguments.
pub(super) fn command_of(words: Vec<OsString>) -> Result<(OsString, Vec<OsString>), Failure> {
    let mut words = words.into_iter();
    let program = words.next().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| usage("a command is needed after `--`".to_owned()))?;
    Ok((program, words.collect()))
}

#[cfg(test)]
mod tests {
    use crate::config::Command;
    use crate::config::tests::config;

    #[test]
    fn run_follows_children_unless_told_not_to() {
        let follows = |line: &str| match config(line).unwrap().command {
            Command::Run(run) => run.trace.follow_children,
            other => panic!("{other:?}"),
        };
        assert!(follows("allocscope run -- true"));
        assert!(follows("allocscope run --follow-children -- true"));
        assert!(!follows("allocscope run --no-follow-children -- true"));
        assert!(follows("allocscope run --no-follow-children --follow-children -- true"));
        assert!(!follows("allocscope run --follow-children --no-follow-children -- true"));
    }
}
