//! The program `leveret`: the library's broker, run from a command line; and a load generator.

mod cli;
mod perf;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
