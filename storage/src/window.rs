//! A file read in large steps, to look at it in small ones.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes read ahead.
pub(crate) const AHEAD: usize = 128 << 10;

pub(crate) struct Window<'a> {
    file: &'a File,
    /// Of the file, or of the part of it that matters.
    pub len: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub fn new(file: &'a File, len: u64) -> Window<'a> {
        Window { file, len, at: 0, bytes: Vec::new() }
    }

    /// So many bytes from `at` on, if the file has them.
    pub fn within(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        if at < self.at || end > self.at + self.bytes.len() as u64 {
            let ahead = (AHEAD as u64).min(self.len - at);
            // What the device cannot read may lie ahead only: then it does without.
            let read_ahead = len < ahead && self.read(at, ahead).is_ok();
            if !read_ahead {
                self.read(at, len)?;
            }
        }
        let from = (at - self.at) as usize;
        Ok(Some(&self.bytes[from..from + len as usize]))
    }

    /// Reads so many bytes; after an error there are none.
    fn read(&mut self, at: u64, len: u64) -> io::Result<()> {
        self.bytes.clear();
        self.bytes.resize(len as usize, 0);
        self.at = at;
        let read = self.file.read_exact_at(&mut self.bytes, at);
        read.inspect_err(|_| self.bytes.clear())
    }

    /// As [`within`](Self::within), where the file should have them: `UnexpectedEof` if it has not.
    pub fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        self.within(at, len as u64)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Where `what` stands next, from `at` on; the end of the file if nowhere.
    pub fn find(&mut self, mut at: u64, what: [u8; 8]) -> io::Result<u64> {
        while self.len.saturating_sub(at) >= what.len() as u64 {
            let part = (self.len - at).min(AHEAD as u64) as usize;
            match self.get(at, part)?.windows(what.len()).position(|bytes| bytes == what) {
                Some(offset) => return Ok(at + offset as u64),
                // Its beginning may stand at the end of this part.
                None => at += (part - what.len() + 1) as u64,
            }
        }
        Ok(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_ahead_is_no_matter_before_it_is_wanted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 100]).unwrap();
        let file = File::open(file.path()).unwrap();
        // Beyond the end of the file, reading fails as it does where the device has lost a sector.
        let mut window = Window::new(&file, 1000);
        assert_eq!(window.get(0, 40).unwrap(), [7; 40]);
        assert!(window.get(90, 20).is_err());
        assert_eq!(window.get(90, 10).unwrap(), [7; 10]);
    }
}
