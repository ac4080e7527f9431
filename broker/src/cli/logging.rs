//! The log: to standard output, as RabbitMQ writes it, where tools wait for the line that says the broker is up.

use std::io::{self, IsTerminal};

use leveret::config::LogFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Starts logging for the whole process.
///
/// # Errors
/// `levels` is not a filter.
pub fn start(format: LogFormat, levels: &str) -> Result<(), ParseError> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(levels)?)
        .with_writer(io::stdout)
        .with_ansi(io::stdout().is_terminal())
        // A log that nobody reads any more must not end the broker: the report would be a panic without a stderr.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
