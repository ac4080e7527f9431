//! The command line: arguments, where the configuration comes from, and what each command does.
//!
//! * `serve`: runs a broker until a signal or an error ends it.
//! * `store`: looks after a data directory offline.
//! * `logging`: where the log goes and how it looks.
//!
//! Whatever goes wrong becomes one line on standard error and an exit code other than 0.

mod logging;
mod serve;
mod store;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::perf;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use leveret::config::{Config, ConfigError, FILE_VARIABLE, Layered, PartialConfig, VARIABLE_PREFIX};
use leveret::definitions::{Definitions, DefinitionsError};

/// The exit code of a command line that cannot be understood, or contradicts itself; that of everything else that fails is 1.
const EXIT_USAGE: u8 = 2;
/// The exit code of a load that went through, but of which messages were lost or the like, and of a check that found
/// damage.
const EXIT_UNSOUND: u8 = 3;

/// A message broker that speaks AMQP 0-9-1 as RabbitMQ speaks it.
///
/// Without a command it serves. Every option can also be given in the environment (--data-dir as LEVERET_DATA_DIR)
/// and in the configuration file (as data_dir); options go over the environment, that goes over the file.
#[derive(Parser)]
#[command(name = "leveret", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    serve: ServeArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker (also without this word)
    Serve(Box<ServeArguments>),
    /// Check the configuration and start nothing
    CheckConfig(Box<Sources>),
    /// Load an AMQP 0-9-1 broker, measure it and check what comes
    ///
    /// Declares queues of its own and deletes them. Ends with exit code 3 if messages were lost, duplicated, out of
    /// order or refused. SIGINT ends it early, with its report.
    Perf(Box<perf::Options>),
    /// Check or compact a data directory that no broker has open
    #[command(subcommand)]
    Store(store::Action),
    /// Print a completion script for a shell
    Completions {
        /// The shell the script is for
        shell: Shell,
    },
}

#[derive(Args)]
struct ServeArguments {
    #[command(flatten)]
    sources: Sources,
    /// Print the configuration in force as a file, without the password, and start nothing
    #[arg(long)]
    print_config: bool,
}

/// What the configuration is made of.
#[derive(Args)]
struct Sources {
    /// Configuration file (TOML), whose keys are the options' names with _ for -
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: PartialConfig,
}

/// Why a command failed. Each is one line for the user.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Definitions(#[from] DefinitionsError),
    #[error("log_level: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("cannot write to the standard output: {0}")]
    Output(io::Error),
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    #[error(transparent)]
    Perf(#[from] perf::PerfError),
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

/// Runs the program with these arguments, the program's name first.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let result = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => execute(arguments),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Only clap knows whether the terminal shows colours.
            return error.print().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
        }
        Err(error) => {
            complain(&one_line(&error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    result.unwrap_or_else(|failure| {
        complain(&failure.to_string());
        match failure {
            Failure::Perf(perf::PerfError::Options(_)) => ExitCode::from(EXIT_USAGE),
            _ => ExitCode::FAILURE,
        }
    })
}

fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        None => serve(arguments.serve),
        Some(Command::Serve(arguments)) => serve(*arguments),
        Some(Command::CheckConfig(sources)) => {
            let Layered { config, unknown_variables } = sources.load()?;
            complain_of_unknown(&unknown_variables);
            if !config.definitions.as_os_str().is_empty() {
                Definitions::read(&config.definitions)?;
            }
            print("the configuration is valid\n".as_bytes())
        }
        Some(Command::Perf(options)) => {
            let findings = perf::perf(*options)?;
            let code = print(findings.text.as_bytes())?;
            Ok(if findings.sound { code } else { ExitCode::from(EXIT_UNSOUND) })
        }
        Some(Command::Store(action)) => {
            let store::Place { config, data_dir } = action.place().clone();
            let flags = PartialConfig { data_dir, ..PartialConfig::default() };
            let Layered { config, unknown_variables } = Sources { config, flags }.load()?;
            complain_of_unknown(&unknown_variables);
            let outcome = store::store(&action, &config.data_dir)?;
            let code = print(outcome.text.as_bytes())?;
            Ok(if outcome.sound { code } else { ExitCode::from(EXIT_UNSOUND) })
        }
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "leveret", &mut script);
            print(&script)
        }
    }
}

fn serve(arguments: ServeArguments) -> Result<ExitCode, Failure> {
    let Layered { config, unknown_variables } = arguments.sources.load()?;
    if arguments.print_config {
        complain_of_unknown(&unknown_variables);
        return print(config.to_toml().as_bytes());
    }
    logging::start(config.log_format, &config.log_level)?;
    for variable in unknown_variables {
        tracing::warn!("{}", unknown(&variable));
    }
    Ok(serve::serve(config)?)
}

impl Sources {
    /// Joins the command line, the environment and the file, and checks the result.
    fn load(self) -> Result<Layered, ConfigError> {
        let from_environment = || std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = self.config.or_else(from_environment);
        let file = path.map(|path| PartialConfig::read(&path)).transpose()?;
        let layered = Config::layered(file, environment()?.into_iter(), self.flags)?;
        layered.config.validate()?;
        Ok(layered)
    }
}

/// The variables that may be settings. Others are none of our business, and may hold anything.
fn environment() -> Result<Vec<(String, String)>, ConfigError> {
    let ours = |(name, text): (OsString, OsString)| {
        let name = name.into_string().ok()?;
        let concerns_us = name.starts_with(VARIABLE_PREFIX) || name.starts_with("RABBITMQ_DEFAULT_");
        // The file's path is read above, and need not be UTF-8.
        (concerns_us && name != FILE_VARIABLE).then_some((name, text))
    };
    let utf8 = |(name, text): (String, OsString)| match text.into_string() {
        Ok(text) => Ok((name, text)),
        Err(_) => Err(ConfigError::NotUtf8(name)),
    };
    std::env::vars_os().filter_map(ours).map(utf8).collect()
}

fn unknown(variable: &str) -> String {
    format!("the environment variable {variable} is no setting of leveret; ignored")
}

fn complain_of_unknown(variables: &[String]) {
    variables.iter().for_each(|variable| complain(&unknown(variable)));
}

/// Writes one line to standard error. If nobody can hear it, the exit code has to do.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "leveret: {line}");
}

/// Prints what was asked for. A reader that has seen enough (`leveret completions bash | head`) is no failure.
fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The first paragraph of clap's report as one line: what follows is the usage, which `--help` shows better.
fn one_line(error: &clap::Error) -> String {
    let report = error.render().to_string();
    let paragraph: Vec<_> = report.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let text = paragraph.join(" ");
    format!("{} (see leveret --help)", text.strip_prefix("error: ").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Command, one_line};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_is_serve_with_the_same_options() {
        let options = ["--listen", "127.0.0.1:1", "--listen", "[::1]:2", "--storage", "memory", "--print-config"];
        let bare =
            Arguments::try_parse_from(["leveret"].iter().chain(&options)).unwrap_or_else(|error| panic!("{error}"));
        let named = Arguments::try_parse_from(["leveret", "serve"].iter().chain(&options))
            .unwrap_or_else(|error| panic!("{error}"));
        let Some(Command::Serve(named)) = named.command else { panic!("not serve") };
        assert!(bare.command.is_none());
        assert_eq!(bare.serve.sources.flags, named.sources.flags);
        assert_eq!(bare.serve.sources.flags.listen.map(|addresses| addresses.len()), Some(2));
        assert!(bare.serve.print_config && named.print_config);
    }

    #[test]
    fn a_bad_option_is_explained_in_one_line() {
        let line = |arguments: &[&str]| match Arguments::try_parse_from(arguments) {
            Ok(_) => panic!("{arguments:?} is accepted"),
            Err(error) => one_line(&error),
        };
        assert_eq!(line(&["leveret", "--lisen", "x"]), "unexpected argument '--lisen' found (see leveret --help)");
        assert_eq!(
            line(&["leveret", "--storage", "paper"]),
            "invalid value 'paper' for '--storage <KIND>' [possible values: sled, memory] (see leveret --help)"
        );
        assert!(
            line(&["leveret", "--memory-limit", "much"]).contains("'--memory-limit <SIZE>': not a size (bytes, or")
        );
        assert!(
            line(&["leveret", "completions"])
                .starts_with("the following required arguments were not provided: <SHELL>")
        );
    }
}
