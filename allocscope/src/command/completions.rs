//! The command line's definition into a completion script.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};

/// Prints a shell's completion script.
///
/// # Errors
/// Where standard output cannot be written.
pub fn run(args: CompletionsArgs) -> anyhow::Result<u8> {
    io::stdout().write_all(&script(&args))?;
    Ok(0)
}

/// Into memory first, because the generator panics where it cannot write.
fn script(args: &CompletionsArgs) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "allocscope", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use clap_complete::Shell;

    #[test]
    fn every_shell_has_a_script() {
        for &shell in Shell::value_variants() {
            let script = String::from_utf8(script(&CompletionsArgs { shell })).unwrap();
            assert!(script.contains("workload") && script.contains("min-size"), "{shell}");
        }
    }
}
