//! Segments: files that are only appended to, and the sidecar each gets when it is full.
//!
//! ```text
//! segment   magic(8) nonce(8) crc(4), then frames
//! sidecar   magic(8) nonce(8) length of the segment(8), per frame (where its bodies begin, length of its heads, heads),
//!           crc(4); empty while the segment is appended to
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::direct::{BLOCK, Direct, SMALL};
use super::frame::{self, Head};
use super::pack::Frame;
use crate::bytes::{Input, lot, put_varint};
use crate::directory::{remove_if_there, sync_directory};
use crate::error::{IoContext, StorageError};

/// Bytes before a segment's first frame.
pub(crate) const SEGMENT_HEADER: u64 = 20;

/// After so many small frames in a row, room is made for more of them: to overwrite zeros is a quarter faster to sync
/// than to append, for the file's length and its place on the device do not change.
const SMALL_IN_A_ROW: u32 = 8;
/// Bytes of zeros written ahead, and some more, to the end of a block.
const ROOM: u64 = 128 << 10;

const MAGIC: &[u8; 8] = b"leveret2";
const SIDECAR_MAGIC: &[u8; 8] = b"levindx2";

pub(crate) fn path(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:010}.log"))
}

fn sidecar_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:010}.heads"))
}

/// The segments in `dir`, ascending; and those of which only the sidecar is there.
pub(crate) fn list(dir: &Path) -> Result<(Vec<u32>, Vec<u32>), StorageError> {
    let (mut ids, mut sidecars) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).context("read", dir)? {
        let name = entry.context("read", dir)?.file_name();
        let id =
            |suffix| name.to_str().and_then(|name| name.strip_suffix(suffix)).and_then(|id| id.parse::<u32>().ok());
        ids.extend(id(".log"));
        sidecars.extend(id(".heads"));
    }
    ids.sort_unstable();
    sidecars.retain(|id| ids.binary_search(id).is_err());
    Ok((ids, sidecars))
}

/// Deletes a segment and its sidecar.
pub(crate) fn delete(dir: &Path, id: u32) -> Result<(), StorageError> {
    // The sidecar first: without its segment it says that this was lost.
    delete_sidecar(dir, id)?;
    let segment = path(dir, id);
    fs::remove_file(&segment).context("remove", &segment)
}

/// An empty sidecar for a segment that is appended to: it says that there is one, so that one which is lost is missed.
fn announce(dir: &Path, id: u32) {
    let path = sidecar_path(dir, id);
    if let Err(error) = File::create(&path) {
        tracing::warn!(%error, path = %path.display(), "a segment's sidecar could not be made");
    }
}

pub(crate) fn delete_sidecar(dir: &Path, id: u32) -> Result<(), StorageError> {
    remove_if_there(&sidecar_path(dir, id)).map(|_| ())
}

fn header(nonce: u64) -> [u8; SEGMENT_HEADER as usize] {
    let mut out = [0; SEGMENT_HEADER as usize];
    out[..8].copy_from_slice(MAGIC);
    out[8..16].copy_from_slice(&nonce.to_be_bytes());
    let crc = crc32fast::hash(&out[..16]);
    out[16..].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The nonce that a segment's header names.
pub(crate) fn parse_header(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; SEGMENT_HEADER as usize] = bytes.first_chunk()?;
    let nonce = Input(&bytes[8..]).u64()?;
    (*bytes == header(nonce)).then_some(nonce)
}

/// The way past the page cache.
#[derive(Debug)]
enum Way {
    Unknown,
    None,
    Open(Box<Direct>),
}

impl Way {
    /// The file's end is written otherwise.
    fn forget(&mut self) {
        if let Way::Open(direct) = self {
            direct.forget();
        }
    }
}

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Open {
    pub id: u32,
    pub nonce: u64,
    pub len: u64,
    pub path: PathBuf,
    /// How far the file reaches: zeros follow `len`.
    reach: u64,
    small_in_a_row: u32,
    /// It is synced now and then; if not, there is nothing to make faster.
    durable: bool,
    file: File,
    /// Where `file` is written next.
    position: u64,
    direct: Way,
    sidecar: Sidecar,
}

impl Open {
    /// Makes segment `id` in `dir`, with a durable name.
    pub fn create(dir: &Path, id: u32, durable: bool) -> Result<Open, StorageError> {
        let (path, nonce) = (path(dir, id), lot());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .context("create", &path)?;
        let made = file.write_all(&header(nonce)).and_then(|()| if durable { file.sync_all() } else { Ok(()) });
        if let Err(error) = made {
            // Nothing was promised of it; what cannot be removed is found without a header, and removed, later.
            let _ = fs::remove_file(&path);
            return Err(StorageError::io("write", &path, error));
        }
        if durable {
            sync_directory(dir)?;
        }
        let (len, sidecar) = (SEGMENT_HEADER, Sidecar::new(nonce));
        if durable {
            announce(dir, id);
        }
        Ok(Open::at_end(id, nonce, len, path, durable, file, sidecar))
    }

    fn at_end(id: u32, nonce: u64, len: u64, path: PathBuf, durable: bool, file: File, sidecar: Sidecar) -> Open {
        let (reach, position, direct) = (len, len, Way::Unknown);
        Open { id, nonce, len, path, reach, small_in_a_row: 0, durable, file, position, direct, sidecar }
    }

    /// Goes on with a segment of which `len` bytes are good.
    pub fn resume(dir: &Path, id: u32, nonce: u64, len: u64, sidecar: Sidecar) -> Result<Open, StorageError> {
        let path = path(dir, id);
        let mut file = OpenOptions::new().read(true).write(true).open(&path).context("open", &path)?;
        file.set_len(len).context("cut", &path)?;
        file.seek(SeekFrom::Start(len)).context("open", &path)?;
        announce(dir, id);
        Ok(Open::at_end(id, nonce, len, path, true, file, sidecar))
    }

    /// Whether a frame of `len` bytes goes elsewhere, for the segment would have more than `most`.
    pub fn is_full_for(&self, len: u64, most: u64) -> bool {
        self.len > SEGMENT_HEADER && self.len + len > most
    }

    /// Appends a frame and says where its bodies begin; `at_once`: a sync follows. After an error nothing of it is there.
    pub fn append(
        &mut self,
        frame: &Frame<'_>,
        sequence: u64,
        synced: u64,
        at_once: bool,
    ) -> Result<u64, StorageError> {
        let written = self.make_room(frame.len()).and_then(|fresh| {
            let at_once = at_once && !fresh;
            frame.with_slices(self.nonce, sequence, synced, |slices| self.write(frame.len(), slices, at_once))
        });
        if let Err(error) = written {
            self.cut(self.len)?;
            return Err(StorageError::io("write", &self.path, error));
        }
        let bodies = self.len + (frame::HEADER + frame.heads().len()) as u64;
        self.sidecar.push(bodies, frame.heads());
        self.len += frame.len();
        self.reach = self.reach.max(self.len);
        Ok(bodies)
    }

    /// Zeros for many small frames; none where a large one goes, which is known to be cut short by where the file ends.
    /// True if they have been written just now.
    fn make_room(&mut self, len: u64) -> io::Result<bool> {
        if len >= SMALL {
            self.small_in_a_row = 0;
            if self.reach > self.len {
                self.file.set_len(self.len)?;
                self.reach = self.len;
            }
            return Ok(false);
        }
        self.small_in_a_row += 1;
        if self.durable && self.small_in_a_row > SMALL_IN_A_ROW && self.len + len > self.reach {
            let reach = (self.len + ROOM).next_multiple_of(BLOCK);
            self.file.write_all_at(&vec![0; (reach - self.len) as usize], self.len)?;
            self.reach = reach;
            return Ok(true);
        }
        Ok(false)
    }

    /// Past the page cache if the sync comes `at_once` and there are zeros for whole blocks.
    fn write(&mut self, len: u64, slices: &mut [IoSlice<'_>], at_once: bool) -> io::Result<()> {
        if at_once && len < SMALL && (self.len + len).next_multiple_of(BLOCK) <= self.reach {
            if matches!(self.direct, Way::Unknown) {
                self.direct = Direct::open(&self.path).map_or(Way::None, |direct| Way::Open(Box::new(direct)));
            }
            if let Way::Open(direct) = &mut self.direct {
                if direct.write(&self.file, self.len, slices)? {
                    return Ok(());
                }
                self.direct = Way::None;
            }
        }
        self.direct.forget();
        if self.position != self.len {
            self.position = self.file.seek(SeekFrom::Start(self.len))?;
        }
        write_all_vectored(&mut self.file, slices)?;
        self.position += len;
        Ok(())
    }

    /// Takes the last frame back, which began at `len`.
    pub fn take_back(&mut self, len: u64) -> Result<(), StorageError> {
        self.sidecar.pop();
        self.len = len;
        self.cut(len)
    }

    fn cut(&mut self, len: u64) -> Result<(), StorageError> {
        self.direct.forget();
        self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len))).context("cut", &self.path)?;
        (self.reach, self.position) = (len, len);
        Ok(())
    }

    pub fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().context("sync", &self.path)
    }

    /// Nothing more comes: writes the sidecar. The segment must be on the device.
    pub fn seal(self, dir: &Path) -> Result<(), StorageError> {
        if self.reach > self.len {
            self.file.set_len(self.len).context("cut", &self.path)?;
        }
        self.sidecar.write(dir, self.id, self.len);
        Ok(())
    }
}

fn write_all_vectored(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The heads of a segment's frames, by which it is known without being read.
#[derive(Clone, Debug)]
pub(crate) struct Sidecar {
    bytes: Vec<u8>,
    /// Where the last frame's begin.
    last: usize,
}

const SIDECAR_HEADER: usize = 24;

impl Sidecar {
    pub fn new(nonce: u64) -> Sidecar {
        let mut bytes = Vec::with_capacity(4096);
        bytes.extend_from_slice(SIDECAR_MAGIC);
        bytes.extend_from_slice(&nonce.to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Sidecar { bytes, last: SIDECAR_HEADER }
    }

    pub fn push(&mut self, bodies: u64, heads: &[u8]) {
        self.last = self.bytes.len();
        put_varint(&mut self.bytes, bodies);
        put_varint(&mut self.bytes, heads.len() as u64);
        self.bytes.extend_from_slice(heads);
    }

    fn pop(&mut self) {
        self.bytes.truncate(self.last);
    }

    /// Writes the file. It need not succeed: without it the segment is read instead.
    pub fn write(mut self, dir: &Path, id: u32, len: u64) {
        self.bytes[16..SIDECAR_HEADER].copy_from_slice(&len.to_be_bytes());
        let crc = crc32fast::hash(&self.bytes);
        self.bytes.extend_from_slice(&crc.to_be_bytes());
        let path = sidecar_path(dir, id);
        if let Err(error) = fs::write(&path, &self.bytes) {
            tracing::warn!(%error, path = %path.display(), "a segment's sidecar could not be written");
        }
    }

    pub fn nonce(&self) -> u64 {
        Input(&self.bytes[8..]).u64().unwrap_or(0)
    }

    /// Whether segment `id` has one, were it empty.
    pub fn exists(dir: &Path, id: u32) -> bool {
        sidecar_path(dir, id).exists()
    }

    /// How long segment `id` was when it was full, as its sidecar has it.
    pub fn length(dir: &Path, id: u32) -> Option<u64> {
        let bytes = fs::read(sidecar_path(dir, id)).ok()?;
        whole(&bytes).map(|(_, of, _)| of)
    }

    /// The frames of segment `id`, if its sidecar is whole and of this segment, which has the length it had. A `nonce`
    /// that cannot be read is not compared.
    pub fn read(dir: &Path, id: u32, len: u64, nonce: Option<u64>) -> Option<Vec<(u64, Vec<Head>)>> {
        let bytes = fs::read(sidecar_path(dir, id)).ok()?;
        let (named, of, frames) = whole(&bytes)?;
        let fits = of == len && nonce.is_none_or(|nonce| nonce == named);
        if fits { parse_frames(frames) } else { None }
    }

    /// The frames noted so far.
    pub fn frames(&self) -> Option<Vec<(u64, Vec<Head>)>> {
        parse_frames(Input(&self.bytes[SIDECAR_HEADER..]))
    }
}

/// The nonce and the length of its segment, and what follows, of a sidecar that is as it was written.
fn whole(bytes: &[u8]) -> Option<(u64, u64, Input<'_>)> {
    let (bytes, crc) = bytes.split_last_chunk::<4>()?;
    let mut input = Input(bytes.strip_prefix(SIDECAR_MAGIC)?);
    let (nonce, len) = (input.u64()?, input.u64()?);
    (crc32fast::hash(bytes) == u32::from_be_bytes(*crc)).then_some((nonce, len, input))
}

fn parse_frames(mut input: Input<'_>) -> Option<Vec<(u64, Vec<Head>)>> {
    let mut frames = Vec::new();
    while !input.0.is_empty() {
        let bodies = input.varint()?;
        let len = usize::try_from(input.varint()?).ok()?;
        frames.push((bodies, frame::parse_heads(input.take(len)?)?));
    }
    Some(frames)
}
