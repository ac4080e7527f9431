//! Runs a broker until a signal asks it to stop or an error ends it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use leveret::config::{Config, StorageKind};
use leveret::{Broker, BrokerError, StartError};
use tokio::signal::unix::{self, SignalKind};
use tracing::{error, info};

/// How long threads that are still busy may hold up the end of the process, once the broker itself has stopped.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Why the broker did not start, or did not end well. Each is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot start the threads of the broker: {0}")]
    Runtime(io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Runs a broker to its end. The exit code is 0 after a clean stop, and after a second signal the one a shell gives
/// for a process that was ended by it (143 for SIGTERM, 130 for SIGINT).
///
/// # Errors
/// [`ServeError`] if it did not start, or if an error ended it.
pub fn serve(config: Config) -> Result<ExitCode, ServeError> {
    // The broker begins further threads itself, when one will not do.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().build().map_err(ServeError::Runtime)?;
    let end = runtime.block_on(run(config));
    runtime.shutdown_timeout(LAST_THREADS);
    end
}

async fn run(config: Config) -> Result<ExitCode, ServeError> {
    // Before the start: a signal during a long recovery must not kill a half-open store.
    let mut signals = Signals::new().map_err(ServeError::Signals)?;
    let place = place_of_data(&config);
    let broker = tokio::select! {
        started = Broker::builder(config).threads(cores()).start() => started?,
        signal = signals.next() => {
            info!("{signal} before the start was complete");
            return Ok(ExitCode::SUCCESS);
        }
    };
    info!("listening on {}, data in {place}", list(broker.addresses()));
    info!("Server startup complete; 0 plugins started.");
    tokio::select! {
        failure = broker.failed() => {
            error!("{failure}");
            return Err(failure.into());
        }
        signal = signals.next() => info!("{signal}: stopping"),
    }
    let code = unless_hurried(broker.shutdown(), signals.next()).await?;
    if code.is_none() {
        info!("stopped");
    }
    Ok(code.map_or(ExitCode::SUCCESS, |signal| ExitCode::from(signal.exit_code())))
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Waits for the shutdown, or for the second signal, which ends the waiting.
async fn unless_hurried<E>(
    shutdown: impl Future<Output = Result<(), E>>,
    second: impl Future<Output = Signal>,
) -> Result<Option<Signal>, E> {
    tokio::select! {
        biased;
        stopped = shutdown => stopped.map(|()| None),
        signal = second => Ok(Some(signal)),
    }
}

/// What the log says of the data. The whole path: the working directory of a service is not obvious.
fn place_of_data(config: &Config) -> String {
    match config.storage {
        StorageKind::Memory => "memory only".to_owned(),
        StorageKind::Sled => {
            std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone()).display().to_string()
        }
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// 128 and the signal's number, as shells have it.
    fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The signals that ask for a stop. From its creation on they no longer end the process by themselves.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Signal, unless_hurried};
    use std::future::{pending, ready};

    #[tokio::test]
    async fn a_second_signal_ends_a_shutdown_that_hangs() {
        let code = unless_hurried(pending::<Result<(), ()>>(), ready(Signal::Terminate)).await;
        assert_eq!(code.map(|signal| signal.map(Signal::exit_code)), Ok(Some(143)));
        let code = unless_hurried(pending::<Result<(), ()>>(), ready(Signal::Interrupt)).await;
        assert_eq!(code.map(|signal| signal.map(Signal::exit_code)), Ok(Some(130)));
    }

    #[tokio::test]
    async fn a_shutdown_that_is_done_needs_no_second_signal() {
        assert_eq!(unless_hurried(ready(Ok::<(), ()>(())), pending()).await, Ok(None));
        assert_eq!(unless_hurried(ready(Err::<(), ()>(())), pending()).await, Err(()));
    }
}
