//! The command line's definition into manual pages.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::{Cli, ManArgs};
use crate::failure::{Exit, Failure};

/// Prints the manual page, or a subcommand's own.
///
/// # Errors
/// [`Exit::Usage`] for a subcommand that does not exist; where standard output cannot be written.
pub fn run(args: ManArgs) -> anyhow::Result<u8> {
    io::stdout().write_all(&page(args.command.as_deref())?)?;
    Ok(0)
}

fn page(name: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut command = Cli::command();
    // Gives subcommands their full names, such as allocscope-attach, and the global flags.
    command.build();
    if let Some(name) = name {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| {
            Failure::error(Exit::Usage, format!("there is no subcommand {}; see --help", name.escape_debug()))
        })?;
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::exit_of;

    #[test]
    fn pages() {
        let text = |name| String::from_utf8(page(name).unwrap()).unwrap();
        assert!(text(None).contains(".TH allocscope 1"));
        assert!(text(None).contains("Exit codes"));
        assert!(text(Some("attach")).contains("\\-\\-duration"));
        assert_eq!(exit_of(&page(Some("nope")).unwrap_err()), Exit::Usage);
    }
}
