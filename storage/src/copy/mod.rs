//! The definitions a second time, in a file of our own, so that no damage to sled loses any.
//!
//! * Here: the file while the store is open. `frame`: what it consists of. `read`: reading it, and what stands in it
//!   that sled does not have. `settle`: which of the two is right when a store is opened.
//!
//! What is committed is appended before sled is told. After a kill the copy is therefore never behind sled, and at most
//! its last frame ahead. It is synced whenever sled is, so that a power cut together with damage to sled costs nothing
//! that was promised.

mod frame;
mod read;
mod settle;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::backend::Bytes;
use crate::bytes::lot;
use crate::definitions::Definitions;
use crate::directory::{remove_if_there, sync_directory};
use crate::error::{IoContext, StorageError};
use frame::Kind;

pub(crate) use settle::{Left, Settled, settle};

/// Bytes of a frame when it is written anew.
const PORTION: usize = 128 << 10;

/// Capacity of a buffer that is kept.
const RECYCLED: usize = 64 << 10;

/// The open copy. Only the writer's thread calls.
#[derive(Debug)]
pub(crate) struct Copy {
    place: PathBuf,
    file: Appending,
    /// Bytes it may take beyond twice what lives in it, before it is written anew.
    spare: u64,
    /// Something was appended since the last sync.
    dirty: bool,
    renewal: Renewal,
}

/// The copy being written anew, a portion at a time, while commits go to both files.
#[derive(Debug)]
enum Renewal {
    Idle,
    Running {
        file: Appending,
        /// The last definition that it has from sled.
        after: Option<Bytes>,
    },
    /// sled could not be read: the copy may have what it has not.
    Impossible,
}

/// A file that frames are appended to.
#[derive(Debug)]
struct Appending {
    file: File,
    path: PathBuf,
    nonce: u64,
    /// Of the last frame.
    sequence: u64,
    len: u64,
    buffer: Vec<u8>,
}

impl Appending {
    fn create(path: PathBuf) -> Result<Appending, StorageError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).context("create", &path)?;
        let nonce = lot();
        file.write_all_at(&frame::header(nonce), 0).context("write", &path)?;
        Ok(Appending { file, path, nonce, sequence: 0, len: frame::FILE_HEADER, buffer: Vec::new() })
    }

    /// After an error nothing of the frame is there.
    fn append<'a>(
        &mut self,
        kind: Kind,
        entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), StorageError> {
        self.buffer.clear();
        frame::put(&mut self.buffer, self.nonce, self.sequence + 1, kind, entries);
        if let Err(error) = self.file.write_all_at(&self.buffer, self.len) {
            self.file.set_len(self.len).context("cut", &self.path)?;
            return Err(StorageError::io("write", &self.path, error));
        }
        self.sequence += 1;
        self.len += self.buffer.len() as u64;
        self.buffer.shrink_to(RECYCLED);
        // So that a file that has lost its end is known.
        let reached = frame::reached(self.nonce, self.sequence);
        self.file.write_all_at(&reached, frame::REACHED_AT).context("write", &self.path)
    }
}

impl Copy {
    /// A copy of these definitions, in the place of whatever was there; on the device.
    fn anew(place: PathBuf, spare: u64, definitions: &[(Bytes, Bytes)]) -> Result<Copy, StorageError> {
        let mut file = Appending::create(unfinished(&place))?;
        let mut rest = definitions;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|(key, value)| {
                let fits = bytes < PORTION;
                bytes += key.len() + value.len();
                fits
            });
            let (now, later) = rest.split_at(fits.count());
            file.append(Kind::Portion, now.iter().map(|(key, value)| (&**key, Some(&**value))))?;
            rest = later;
        }
        put_in_place(&mut file, &place)?;
        Ok(Copy { place, file, spare, dirty: false, renewal: Renewal::Idle })
    }

    /// Goes on with the file as it was found, behind its last frame.
    fn resume(place: PathBuf, spare: u64, found: &read::Found) -> Result<Copy, StorageError> {
        // A renewal that was cut short.
        remove_if_there(&unfinished(&place))?;
        let file = OpenOptions::new().write(true).open(&place).context("open", &place)?;
        file.set_len(found.end).context("cut", &place)?;
        let (nonce, sequence, len) = (found.nonce, found.sequence, found.end);
        let reached = frame::reached(nonce, sequence);
        file.write_all_at(&reached, frame::REACHED_AT).context("write", &place)?;
        file.sync_data().context("sync", &place)?;
        let file = Appending { file, path: place.clone(), nonce, sequence, len, buffer: Vec::new() };
        Ok(Copy { place, file, spare, dirty: false, renewal: Renewal::Idle })
    }

    /// Notes down the definitions that are put, or those that are deleted. After `Full` nothing of it is there.
    pub fn append(&mut self, definitions: &[(Bytes, Option<Bytes>)], put: bool) -> Result<(), StorageError> {
        let entries = definitions.iter().filter(|(_, value)| value.is_some() == put);
        let entries = entries.map(|(key, value)| (&**key, value.as_deref()));
        if entries.clone().next().is_none() {
            return Ok(());
        }
        if let Renewal::Running { file, .. } = &mut self.renewal
            && let Err(error) = file.append(Kind::Commit, entries.clone())
        {
            tracing::debug!(%error, "the copy of the definitions is written anew some other time");
            self.stop_renewal(Renewal::Idle)?;
        }
        self.file.append(Kind::Commit, entries)?;
        self.dirty = true;
        Ok(())
    }

    /// A step of what can wait: a portion of the file that takes the place of this one. True: it should be
    /// called again soon. `room`: whether so many bytes of disk are free.
    pub fn idle(&mut self, definitions: &Definitions, room: impl Fn(u64) -> bool) -> Result<bool, StorageError> {
        match &self.renewal {
            Renewal::Idle if self.is_large(definitions.live_bytes()) && room(definitions.live_bytes() * 2) => {
                match Appending::create(unfinished(&self.place)) {
                    Ok(file) => self.renewal = Renewal::Running { file, after: None },
                    Err(StorageError::Full { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Renewal::Running { .. } => match self.renew(definitions) {
                Err(StorageError::Full { .. }) => self.stop_renewal(Renewal::Idle)?,
                Err(error) if error.is_damage() => {
                    tracing::error!(%error, "definitions cannot be read; their copy is kept as it is");
                    self.stop_renewal(Renewal::Impossible)?;
                }
                other => other?,
            },
            _ => {}
        }
        Ok(matches!(self.renewal, Renewal::Running { .. }))
    }

    fn is_large(&self, live: u64) -> bool {
        self.file.len > 2 * live + self.spare + frame::FILE_HEADER
    }

    /// Writes the next portion; after the last one the new file takes the place of the old one.
    fn renew(&mut self, definitions: &Definitions) -> Result<(), StorageError> {
        let Renewal::Running { file, after } = &mut self.renewal else {
            return Ok(());
        };
        let portion = definitions.portion(after.as_deref(), PORTION)?;
        let Some((last, _)) = portion.last() else {
            put_in_place(file, &self.place)?;
            if let Renewal::Running { file, .. } = std::mem::replace(&mut self.renewal, Renewal::Idle) {
                self.file = file;
            }
            self.dirty = false;
            return Ok(());
        };
        *after = Some(last.clone());
        file.append(Kind::Portion, portion.iter().map(|(key, value)| (&**key, Some(&**value))))?;
        // A little at a time, rather than all of it at the end.
        file.file.sync_data().context("sync", &file.path)
    }

    fn stop_renewal(&mut self, to: Renewal) -> Result<(), StorageError> {
        self.renewal = to;
        remove_if_there(&unfinished(&self.place)).map(|_| ())
    }

    /// Makes everything appended durable.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        if self.dirty {
            self.file.file.sync_data().context("sync", &self.place)?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Makes everything durable.
    pub fn close(mut self) -> Result<(), StorageError> {
        if let Renewal::Running { .. } = self.renewal {
            self.stop_renewal(Renewal::Idle)?;
        }
        self.sync()
    }
}

/// The file is whole: it goes to the device, and then to its place.
fn put_in_place(file: &mut Appending, place: &Path) -> Result<(), StorageError> {
    file.file.sync_all().context("sync", &file.path)?;
    fs::rename(&file.path, place).context("rename", &file.path)?;
    file.path = place.to_owned();
    sync_directory(place.parent().unwrap_or(Path::new(".")))
}

/// Where it is written anew.
fn unfinished(place: &Path) -> PathBuf {
    place.with_extension("log.new")
}
