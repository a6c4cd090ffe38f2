//! The command line: one file for each subcommand, each with its arguments and a `run`.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 refused or different, 2 usage.

pub mod bench;
pub mod inspect;
pub mod summary;
pub mod synth;
pub mod verify;
