//! How a command ends: exit codes that scripts may rely on, and the error that goes with them.

use std::fmt;
use std::process::ExitCode;

/// What a script learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Not done.
    Failure = 1,
    /// Wrong flags, or a configuration with faults.
    Usage = 2,
    /// Done in part: some rows were refused.
    Partial = 3,
    /// This machine, kernel or container cannot do what was asked for.
    Environment = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed: one message for people, one code for scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What went wrong and what to do about it.
    pub message: String,
}

impl Failure {
    /// Exit code 1.
    pub fn new(message: impl fmt::Display) -> Failure {
        Failure { exit: Exit::Failure, message: message.to_string() }
    }

    /// Exit code 2.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure { exit: Exit::Usage, message: message.to_string() }
    }

    /// Exit code 78.
    pub fn environment(message: impl fmt::Display) -> Failure {
        Failure { exit: Exit::Environment, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// For `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   failed
  2   wrong flags, or a configuration with faults (all of them are listed)
  3   done in part: some rows were refused (rank)
  78  this machine, kernel or container cannot do it (io_uring refused, no such engine)";
