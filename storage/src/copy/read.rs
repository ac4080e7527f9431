//! Reading the copy, and comparing it with what sled has. Only what differs is kept in memory.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::Path;

use super::frame::{self, Entry, FILE_HEADER, HEADER, Header, Kind};
use crate::backend::Bytes;
use crate::error::{IoContext, StorageError};
use crate::window::Window;

/// What became of the file.
#[derive(Debug)]
pub(crate) enum State {
    Missing,
    /// There is something, and it is not the beginning of a copy.
    Unreadable,
    Read(Found),
}

/// A file that could be read.
#[derive(Debug)]
pub(crate) struct Found {
    pub nonce: u64,
    /// Of the last frame.
    pub sequence: u64,
    /// Behind the last frame.
    pub end: u64,
    /// Nothing is missing between its frames, nor of what it says it had. A frame cut short at the end may follow.
    pub whole: bool,
}

impl State {
    pub fn is_whole(&self) -> bool {
        matches!(self, State::Read(Found { whole: true, .. }))
    }
}

/// What the copy says of what sled has, and beyond.
#[derive(Debug)]
pub(crate) struct Compared<'a> {
    ours: &'a [(Bytes, Bytes)],
    /// Of each of `ours`.
    says: Vec<Says>,
    /// What sled does not have.
    more: HashMap<Bytes, Bytes>,
    /// The keys of the last frame, if that is a commit.
    last: HashSet<Bytes>,
    pub state: State,
}

#[derive(Clone, Debug)]
enum Says {
    /// It has no such definition.
    Nothing,
    Same,
    Other(Bytes),
}

impl<'a> Compared<'a> {
    /// Reads the file at `path`. `ours` is ordered by key.
    pub fn read(path: &Path, ours: &'a [(Bytes, Bytes)]) -> Result<Compared<'a>, StorageError> {
        let says = vec![Says::Nothing; ours.len()];
        let state = State::Missing;
        let mut compared = Compared { ours, says, more: HashMap::new(), last: HashSet::new(), state };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(compared),
            Err(error) => return Err(error).context("open", path),
        };
        let state = match scan(&file, |kind, entries| compared.take(kind, entries)) {
            Ok(Some(found)) => State::Read(found),
            Ok(None) => State::Unreadable,
            Err(error) => match StorageError::io("read", path, error) {
                damage if damage.is_damage() => State::Unreadable,
                error => return Err(error),
            },
        };
        compared.state = state;
        Ok(compared)
    }

    fn take(&mut self, kind: Kind, entries: &[Entry<'_>]) {
        self.last.clear();
        for &(key, value) in entries {
            if kind == Kind::Commit {
                self.last.insert(key.into());
            }
            match (self.ours.binary_search_by(|(ours, _)| (**ours).cmp(key)), value) {
                (Ok(at), None) => self.says[at] = Says::Nothing,
                (Ok(at), Some(value)) if *value == *self.ours[at].1 => self.says[at] = Says::Same,
                (Ok(at), Some(value)) => self.says[at] = Says::Other(value.into()),
                (Err(_), None) => drop(self.more.remove(key)),
                (Err(_), Some(value)) => drop(self.more.insert(key.into(), value.into())),
            }
        }
    }

    /// Whether both say the same.
    pub fn agrees(&self) -> bool {
        self.more.is_empty() && self.says.iter().all(|says| matches!(says, Says::Same))
    }

    /// What has to be changed in sled, so that it says what the copy says.
    pub fn changes(&self) -> Vec<(Bytes, Option<Bytes>)> {
        let ours = self.ours.iter().zip(&self.says).filter_map(|((key, _), says)| match says {
            Says::Nothing => Some((key.clone(), None)),
            Says::Same => None,
            Says::Other(value) => Some((key.clone(), Some(value.clone()))),
        });
        ours.chain(self.beyond()).collect()
    }

    /// Whether a kill explains what has to be changed: it came before sled was told of the last frame.
    pub fn is_last_frame(&self, changes: &[(Bytes, Option<Bytes>)]) -> bool {
        changes.iter().all(|(key, _)| self.last.contains(key))
    }

    /// What the copy has of definitions that sled has not.
    pub fn beyond(&self) -> Vec<(Bytes, Option<Bytes>)> {
        self.more.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
    }
}

/// Hands all frames that can be read to `each`. `None`: it is not a copy at all.
fn scan(file: &File, mut each: impl FnMut(Kind, &[Entry<'_>])) -> io::Result<Option<Found>> {
    let len = file.metadata()?.len();
    let mut window = Window::new(file, len);
    let Some((nonce, reached)) = window.within(0, FILE_HEADER)?.and_then(frame::parse_header) else {
        return Ok(None);
    };
    let mut found = Found { nonce, sequence: 0, end: FILE_HEADER, whole: reached.is_some() };
    let mut at = FILE_HEADER;
    while at < len {
        let header = window.within(at, HEADER as u64)?.and_then(|bytes| frame::parse_frame_header(bytes, nonce));
        let payload = match header {
            Some(header) => window.within(at + HEADER as u64, header.len)?.map(|payload| (header, payload)),
            None => None,
        };
        match payload.and_then(|(header, payload)| Some((header, frame::parse_entries(header, payload)?))) {
            Some((Header { sequence, len, .. }, (kind, entries))) => {
                found.whole &= at == found.end && sequence == found.sequence + 1;
                each(kind, &entries);
                at += HEADER as u64 + len;
                (found.sequence, found.end) = (sequence, at);
            }
            None => at = window.find(at + 1, nonce.to_be_bytes())?,
        }
    }
    found.whole &= reached.is_some_and(|reached| reached <= found.sequence);
    Ok(Some(found))
}
