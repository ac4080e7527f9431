//! `leveret store`: looks after a data directory that no broker has open.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Backend, Gauge, Note, Recovered, StorageError};

/// One of these at least is left of a store that has lost some file.
const TRACES: [&str; 3] = ["FORMAT", "definitions", "messages"];

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub enum Action {
    /// Read everything that is stored, and say what is damaged
    ///
    /// Definitions are kept in two places; the two are compared, and what one has lost is taken from the other. What is
    /// damaged is put aside in the directory `quarantine`, as the broker itself would. Ends with exit code 3 if there was
    /// any.
    Check(Place),
    /// Give space back that is taken by messages that are gone
    Compact(Place),
}

#[derive(Args)]
pub struct Place {
    /// Directory of the durable data
    #[arg(long, value_name = "DIR", default_value = "./leveret-data", value_hint = clap::ValueHint::DirPath)]
    data_dir: PathBuf,
}

/// Why nothing could be done. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no store in {}", .0.display())]
    Missing(PathBuf),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot find out the size of {}: {source}", path.display())]
    Size { path: PathBuf, source: io::Error },
}

/// What came of it.
pub struct Outcome {
    /// For the user.
    pub text: String,
    /// Nothing was found damaged.
    pub sound: bool,
}

pub fn store(action: &Action) -> Result<Outcome, StoreError> {
    match action {
        Action::Check(place) => check(&place.data_dir),
        Action::Compact(place) => compact(&place.data_dir),
    }
}

fn open(dir: &Path, options: &DiskOptions) -> Result<(Box<dyn Backend>, Recovered), StoreError> {
    // Opening would make one.
    if !TRACES.iter().any(|name| dir.join(name).exists()) {
        return Err(StoreError::Missing(dir.to_owned()));
    }
    Ok(open_disk_with(dir, options)?)
}

fn check(dir: &Path) -> Result<Outcome, StoreError> {
    let (backend, recovered) = open(dir, &DiskOptions::default())?;
    let gauge = Arc::<Gauge>::default();
    let mut read = 0;
    let mut progress = Progress::default();
    for (queue, stored) in recovered.queues.iter().flat_map(|q| q.stored.iter().map(move |stored| (q.queue, stored))) {
        if let Some(reader) = backend.reader() {
            let runs = reader.read(queue, stored.first, stored.count, &gauge)?;
            read += runs.iter().map(|(_, run)| u64::from(run.count())).sum::<u64>();
        }
        progress.tell(|| format!("{read} of {} messages read", recovered.messages));
    }
    let damaged = recovered.messages - read;
    let mut text = String::new();
    for note in &recovered.notes {
        text += &format!("{note}\n");
    }
    for quarantined in &recovered.quarantined {
        text += &format!("put aside: {quarantined:?}\n");
    }
    text += &format!("{} definitions, in both places, and {read} messages are sound", recovered.definitions.len());
    text += &match damaged {
        0 => "\n".to_owned(),
        damaged => format!("; {damaged} messages are damaged and were put aside\n"),
    };
    backend.close()?;
    let told = recovered.notes.iter().any(Note::is_damage);
    Ok(Outcome { text, sound: damaged == 0 && recovered.quarantined.is_empty() && !told })
}

fn compact(dir: &Path) -> Result<Outcome, StoreError> {
    let before = size_of(dir)?;
    let (mut backend, _) = open(dir, &DiskOptions { compact: true, ..DiskOptions::default() })?;
    let mut progress = Progress::default();
    while backend.idle()? {
        progress.tell(|| size_of(dir).map_or(String::new(), |now| format!("{before} bytes before, {now} now")));
    }
    backend.sync()?;
    backend.close()?;
    let after = size_of(dir)?;
    Ok(Outcome { text: format!("{before} bytes before, {after} after\n"), sound: true })
}

/// Bytes of the files in `dir` and below.
fn size_of(dir: &Path) -> Result<u64, StoreError> {
    let failed = |source| StoreError::Size { path: dir.to_owned(), source };
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = match entry.metadata() {
            // Cleaned away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        bytes += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// A line on standard error now and then.
struct Progress(Instant);

impl Default for Progress {
    fn default() -> Progress {
        Progress(Instant::now())
    }
}

impl Progress {
    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.0.elapsed() >= PROGRESS {
            self.0 = Instant::now();
            // Nobody may be looking.
            let _ = writeln!(io::stderr(), "leveret: {}", line());
        }
    }
}
