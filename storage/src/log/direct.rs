//! Small frames written past the page cache, for somebody who waits until they are on the device.
//!
//! Over zeros that lie there already, such a write and its sync take two thirds of the time that they take through the
//! page cache. It goes in whole blocks: what stands before the frame in its first block is written again as it is, and zeros
//! stand behind the frame to the end of its last. So the file is the same as otherwise, octet by octet.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::{Errno, pwrite, retry_on_intr};

/// Where a block begins, in the file as in memory: what every device will do.
pub(crate) const BLOCK: u64 = 4096;

/// A frame below this size is small; only such a one is written so.
pub(crate) const SMALL: u64 = 16 << 10;

/// The end of a file that is written so.
#[derive(Debug)]
pub(crate) struct Direct {
    /// Of the same file, past the page cache.
    file: File,
    buffer: Vec<u8>,
    /// Where in `buffer` a block may begin.
    start: usize,
    /// Where in the file the buffer's first block lies, and how much of it has been written.
    tail: Option<(u64, usize)>,
}

impl Direct {
    /// `None` where that is not to be had.
    pub fn open(path: &Path) -> Option<Direct> {
        let file = OpenOptions::new().write(true).custom_flags(flags()?).open(path).ok()?;
        let buffer = vec![0; (SMALL + 3 * BLOCK) as usize];
        let start = buffer.as_ptr().align_offset(BLOCK as usize);
        (start < BLOCK as usize).then_some(Direct { file, buffer, start, tail: None })
    }

    /// The file's end was written otherwise.
    pub fn forget(&mut self) {
        self.tail = None;
    }

    /// Writes a small frame, in `slices`, at `at`, the end of `file` but for zeros, which reach to the end of a block
    /// at least. False: it has to go the other way, from now on, and nothing was written.
    pub fn write(&mut self, file: &File, at: u64, slices: &[IoSlice<'_>]) -> io::Result<bool> {
        let (from, before) = match self.tail.take() {
            Some((from, before)) if from + before as u64 == at => (from, before),
            _ => {
                let from = at / BLOCK * BLOCK;
                let before = (at - from) as usize;
                // What cannot be read is not written again.
                if file.read_exact_at(&mut self.buffer[self.start..self.start + before], from).is_err() {
                    return Ok(false);
                }
                (from, before)
            }
        };
        let buffer = &mut self.buffer[self.start..];
        let mut end = before;
        for slice in slices {
            buffer[end..end + slice.len()].copy_from_slice(slice);
            end += slice.len();
        }
        let whole = end.next_multiple_of(BLOCK as usize);
        buffer[end..whole].fill(0);
        match retry_on_intr(|| pwrite(&self.file, &buffer[..whole], from)) {
            Ok(written) if written >= whole => {}
            // Seldom: the rest goes the other way.
            Ok(written) => file.write_all_at(&buffer[written..whole], from + written as u64)?,
            Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let full = end / BLOCK as usize * BLOCK as usize;
        buffer.copy_within(full..end, 0);
        self.tail = Some((from + full as u64, end - full));
        Ok(true)
    }
}

/// What a file is opened with.
fn flags() -> Option<i32> {
    #[cfg(target_os = "linux")]
    return i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok();
    #[cfg(not(target_os = "linux"))]
    return None;
}
