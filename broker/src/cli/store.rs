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
    ///
    /// What is found damaged on the way is put aside and named, as by `check`; it ends with exit code 3 then.
    Compact(Place),
}

impl Action {
    /// Where the store is.
    pub fn place(&self) -> &Place {
        match self {
            Action::Check(place) | Action::Compact(place) => place,
        }
    }
}

/// Found as the broker finds it: on the command line, in the environment, in the configuration file.
#[derive(Args, Clone)]
pub struct Place {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Directory of the durable data
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
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

/// Looks after the store in `dir`.
pub fn store(action: &Action, dir: &Path) -> Result<Outcome, StoreError> {
    match action {
        Action::Check(_) => check(dir),
        Action::Compact(_) => compact(dir),
    }
}

/// What opening and reading found, a line each, and whether nothing of it was damage.
fn findings(recovered: &Recovered, damaged: u64) -> (String, bool) {
    let notes = recovered.notes.iter().map(|note| format!("{note}\n"));
    let quarantined = recovered.quarantined.iter().map(|quarantined| format!("put aside: {quarantined}\n"));
    let messages = (damaged > 0).then(|| format!("put aside: {damaged} damaged messages\n"));
    let sound = damaged == 0 && recovered.quarantined.is_empty() && !recovered.notes.iter().any(Note::is_damage);
    (notes.chain(quarantined).chain(messages).collect(), sound)
}

/// Opening would make a store.
fn check_there(dir: &Path) -> Result<(), StoreError> {
    match TRACES.iter().any(|name| dir.join(name).exists()) {
        true => Ok(()),
        false => Err(StoreError::Missing(dir.to_owned())),
    }
}

fn check(dir: &Path) -> Result<Outcome, StoreError> {
    check_there(dir)?;
    let (backend, recovered) = open_disk_with(dir, &DiskOptions::default())?;
    let damaged = read_all(&*backend, &recovered)?;
    backend.close()?;
    let (findings, sound) = findings(&recovered, damaged);
    let (definitions, messages) = (recovered.definitions.len(), recovered.messages - damaged);
    let text = format!("{findings}{definitions} definitions, in both places, and {messages} messages are sound\n");
    Ok(Outcome { text, sound })
}

fn compact(dir: &Path) -> Result<Outcome, StoreError> {
    check_there(dir)?;
    let before = size_of(dir)?;
    let (mut backend, recovered) = open_disk_with(dir, &DiskOptions { compact: true, ..DiskOptions::default() })?;
    // A full disk may be why this is done: the space kept aside for that helps to begin.
    backend.give_up_reserve()?;
    // What is written anew has to be read anyhow, and what is damaged must not go without a word.
    let damaged = read_all(&*backend, &recovered)?;
    let compacted = write_anew(&mut *backend, || {
        size_of(dir).map_or(String::new(), |now| format!("{before} bytes before, {now} now"))
    });
    // Where there is no room, nothing is wrong with the store: it is left as after any other use.
    let full = match compacted {
        Err(error) if !matches!(error, StorageError::Full { .. }) => return Err(error.into()),
        other => other,
    };
    backend.sync()?;
    backend.keep_reserve()?;
    let closed = backend.close();
    let (findings, sound) = findings(&recovered, damaged);
    if let Err(error) = full.and(closed) {
        // It is put aside by now, and will not be met again. Nobody may be looking.
        findings.lines().for_each(|line| writeln!(io::stderr(), "leveret: {line}").unwrap_or_default());
        return Err(error.into());
    }
    let after = size_of(dir)?;
    Ok(Outcome { text: format!("{findings}{before} bytes before, {after} after\n"), sound })
}

/// Gives space back until there is none to give.
fn write_anew(backend: &mut dyn Backend, line: impl Fn() -> String) -> Result<(), StorageError> {
    let mut progress = Progress::default();
    while backend.idle()? {
        progress.tell(&line);
    }
    Ok(())
}

/// Reads every message, and says how many are damaged: those are put aside, and after the store is closed not met again.
fn read_all(backend: &dyn Backend, recovered: &Recovered) -> Result<u64, StoreError> {
    let gauge = Arc::<Gauge>::default();
    let (mut read, mut progress) = (0, Progress::default());
    for (queue, stored) in recovered.queues.iter().flat_map(|q| q.stored.iter().map(move |stored| (q.queue, stored))) {
        if let Some(reader) = backend.reader() {
            let runs = reader.read(queue, stored.first, stored.count, &gauge)?;
            read += runs.iter().map(|(_, run)| u64::from(run.count())).sum::<u64>();
        }
        progress.tell(|| format!("{read} of {} messages read", recovered.messages));
    }
    Ok(recovered.messages - read)
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
