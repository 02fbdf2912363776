//! Examples and exit codes into the text below `--help`.

use crate::failure::Exit;

const EXAMPLES: &str = "\
Examples:
  allocscope attach --pid 4242 --duration 30s    what large allocations cost process 4242
  allocscope run -- ./server --port 80           the same from the first instruction on
  allocscope advise --pid 4242                   what would make it faster, and what that rests on
  allocscope daemon --comm '^(nginx|envoy)$'     metrics of all such processes for Prometheus
  allocscope record --pid 4242 -d 30s -o p.pb.gz which code pays for them, as a profile
  allocscope inspect 4242                        where probes would go, attaching none
  allocscope doctor                              what this machine allows";

/// What stands below the help of the whole program.
pub(super) fn after_help() -> String {
    let mut text =
        format!("{EXAMPLES}\n\nExit codes:\n    0  success; `run`: whatever the command returned\n");
    for exit in EXITS {
        text.push_str(&format!("  {:3}  {}\n", exit as u8, meaning(exit)));
    }
    text
}

const EXITS: [Exit; 17] = [
    Exit::Internal,
    Exit::Usage,
    Exit::NoSuchProcess,
    Exit::Privilege,
    Exit::Kernel,
    Exit::NothingToTrace,
    Exit::BadBinary,
    Exit::ThirtyTwoBit,
    Exit::PortInUse,
    Exit::EndedEarly,
    Exit::Found,
    Exit::OverBudget,
    Exit::Unjudged,
    Exit::RunFailed,
    Exit::NotExecutable,
    Exit::NotFound,
    Exit::Interrupted,
];

/// What an exit code says, for `--help`.
fn meaning(exit: Exit) -> &'static str {
    match exit {
        Exit::Internal => "anything not listed below",
        Exit::Usage => "bad flags: unknown, conflicting or malformed",
        Exit::NoSuchProcess => "no such process",
        Exit::Privilege => "not root, or a capability is missing",
        Exit::Kernel => "the kernel lacks something that allocscope cannot do without",
        Exit::NothingToTrace => "there is nothing to trace in the target",
        Exit::BadBinary => "the target's binary cannot be read",
        Exit::ThirtyTwoBit => "the target is a 32-bit process",
        Exit::PortInUse => "the address to listen on is in use or cannot be bound",
        Exit::EndedEarly => "the process ended before --duration was over; the report was printed",
        Exit::Found => "`advise --fail-on-finding`: there are findings",
        Exit::OverBudget => "`run --budget`: the command succeeded and broke the budget",
        Exit::Unjudged => {
            "`run --budget`: the command succeeded, and a part of the budget could not be judged"
        }
        Exit::RunFailed => "`run`: allocscope itself failed",
        Exit::NotExecutable => "`run`: the command could not be executed",
        Exit::NotFound => "`run`: the command was not found",
        Exit::Interrupted => "interrupted twice: stopped without a report",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for exit in EXITS {
            assert!(help.contains(&format!("{:3}  {}", exit as u8, meaning(exit))), "{exit:?}");
        }
    }
}
