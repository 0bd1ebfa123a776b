//! `gavel config`: what is in force, and what there is.

use clap::Subcommand;

use super::exit::{Exit, Failure};
use super::print;
use super::settings::SettingArgs;
use crate::config::{reference, show};

/// What to print.
#[derive(Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// Prints the effective configuration as TOML, with where each value came from
    ///
    /// Takes the flags of `serve`. The output is a valid configuration file.
    Show(Box<SettingArgs>),
    /// Prints every setting with its default and the reason for it
    Reference,
}

/// Prints to stdout.
pub fn run(command: &ConfigCommand) -> Result<Exit, Failure> {
    let text = match command {
        ConfigCommand::Show(args) => {
            let loaded = args.load()?;
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            show(&loaded.effective)
        }
        ConfigCommand::Reference => reference(),
    };
    print(&text)
}
