//! One file a subcommand; here is what they share: parse, dispatch, outcome into exit code.

pub mod advise;
pub mod attach;
pub mod completions;
pub mod daemon;
pub mod doctor;
mod gate;
pub mod inspect;
pub mod man;
mod observed;
pub mod record;
pub mod run;
mod stopped;
mod trace;
pub mod workload;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::config::{Color, Command, Config};
use crate::failure::{Exit, exit_of};

/// Runs the program: clap itself answers bad flags (exit code 2), `--help` and `--version`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match Config::try_from(cli).map_err(Into::into).and_then(dispatch) {
        Ok(code) => code.into(),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("{error:#}"));
            (exit_of(&error) as u8).into()
        }
    }
}

/// Each command returns the program's exit code, or an error that carries one.
fn dispatch(config: Config) -> anyhow::Result<u8> {
    start_log(config.verbosity, config.color);
    match config.command {
        Command::Attach(config) => attach::run(config),
        Command::Run(config) => run::run(config).map_err(as_failure_of_run),
        Command::Advise(config) => advise::run(config),
        Command::Daemon(config) => daemon::run(config),
        Command::Record(config) => record::run(config),
        Command::Inspect(config) => inspect::run(config),
        Command::Doctor(config) => doctor::run(config),
        Command::Workload(workload) => workload::run(workload),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

/// `RUST_LOG` can say more than `-v`.
fn start_log(verbosity: u8, color: Color) {
    let level = match verbosity {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    let style = match color {
        Color::Auto => env_logger::WriteStyle::Auto,
        Color::Always => env_logger::WriteStyle::Always,
        Color::Never => env_logger::WriteStyle::Never,
    };
    env_logger::Builder::new().filter_level(level).parse_default_env().write_style(style).init();
}

/// Says something on standard error. Unlike `eprintln!` it goes on where nobody reads that any more: a report
/// is not lost because a message is.
fn tell(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "allocscope: {message}");
}

/// The codes below 125 are the traced command's own under `run`, so allocscope's failures go above.
fn as_failure_of_run(error: anyhow::Error) -> anyhow::Error {
    match exit_of(&error) {
        Exit::NotExecutable | Exit::NotFound | Exit::Interrupted | Exit::RunFailed => error,
        _ => crate::failure::Failure::error(Exit::RunFailed, format!("{error:#}")),
    }
}

/// Whoever read the output (`| head`) has had enough: no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn failures_of_run_do_not_look_like_the_commands() {
        let exit = |exit| exit_of(&as_failure_of_run(Failure::error(exit, "x")));
        assert_eq!(exit(Exit::Privilege), Exit::RunFailed);
        assert_eq!(exit(Exit::NotFound), Exit::NotFound);
        let message =
            as_failure_of_run(Failure::error(Exit::Kernel, "no BTF").context("loading")).to_string();
        assert_eq!(message, "loading: no BTF");
    }

    #[test]
    fn a_closed_pipe_is_known_under_context() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&Failure::error(Exit::Internal, "x")));
    }
}
