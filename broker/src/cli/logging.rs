//! The log: to standard output, as RabbitMQ writes it, where tools wait for the line that says the broker is up.

use std::io::{self, IsTerminal};

use leveret::config::LogFormat;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// Starts logging for the whole process.
///
/// # Errors
/// `levels` is not a filter.
pub fn start(format: LogFormat, levels: &str) -> Result<(), ParseError> {
    let levels: Targets = levels.split_whitespace().collect::<String>().parse()?;
    let log = fmt::layer()
        .with_writer(io::stdout)
        .with_ansi(io::stdout().is_terminal())
        // A log that nobody reads any more must not end the broker: the report would be a panic without a stderr.
        .log_internal_errors(false);
    let log = match format {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    registry().with(log).with(levels).init();
    Ok(())
}
