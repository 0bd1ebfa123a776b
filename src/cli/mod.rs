//! The commands: flags, help, exit codes. What they do lies below; nothing below knows of flags.

pub mod check;
pub mod compile;
pub mod config;
pub mod cost;
pub mod demo;
pub mod doctor;
pub mod exit;
pub mod import;
pub mod inspect;
pub mod loading;
pub mod plan;
pub mod precision;
pub mod progress;
pub mod rank;
pub mod serve;
pub mod settings;
pub mod synth;
pub mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use exit::{EXIT_CODES, Exit, Failure};

/// Ranks ads: an inference server for click and conversion models.
///
/// One request is one context (user, page, slot) and N candidates; the answer is a score per candidate and output.
#[derive(Parser, Debug)]
#[command(name = "gavel", version, max_term_width = 100, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::ServeArgs),
    Demo(demo::DemoArgs),
    /// Tells what this machine, kernel and container can do for gavel, and what to change
    Doctor,
    Check(check::CheckArgs),
    Compile(compile::CompileArgs),
    Inspect(inspect::InspectArgs),
    Rank(rank::RankArgs),
    #[command(subcommand)]
    Import(import::ImportCommand),
    Synth(synth::SynthArgs),
    /// Shows the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Prints shell completions
    ///
    /// For bash: gavel completions bash > ~/.local/share/bash-completion/completions/gavel
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// Runs the command line of this process. Flags that are wrong end in 2, with what was expected.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; both go where clap sends them.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    match run(cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit.into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Doctor => doctor::run(),
        Command::Check(args) => check::run(&args),
        Command::Compile(args) => compile::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Rank(args) => rank::run(&args),
        Command::Import(command) => import::run(&command),
        Command::Synth(args) => synth::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "gavel", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// Writes to stdout; a reader that went away is no failure.
fn print(text: &str) -> Result<Exit, Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(format!("cannot write to stdout: {error}"))),
        _ => Ok(Exit::Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
