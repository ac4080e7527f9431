//! What can go wrong with a store. Every message is one line and names the path it is about.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a store could not be opened, written, synced or closed.
///
/// It can be cloned, for the writer keeps the first failure and hands it to whoever asks later.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb ("open", "sync").
        action: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
    /// The disk, or the quota, is full.
    #[error("no space left on the device of {}", path.display())]
    Full { path: PathBuf },
    /// Another broker, in this process or another, has the directory.
    #[error("the data directory {} is in use by another broker", path.display())]
    Locked { path: PathBuf },
    /// The directory was written by a program whose format we do not know; nothing in it was touched.
    #[error("the data directory {} has an unknown format: {found}", path.display())]
    UnknownFormat {
        path: PathBuf,
        /// What stands where the version should be, shortened.
        found: Box<str>,
    },
    /// What is stored cannot be read as a whole.
    #[error("the store {} is damaged: {source}", path.display())]
    Corrupt { path: PathBuf, source: Arc<dyn Error + Send + Sync> },
    /// The code beneath panicked; what it was doing may or may not be on disk.
    #[error("the storage writer of {} panicked", path.display())]
    Panicked { path: PathBuf },
    /// The store was closed before.
    #[error("the store is closed")]
    Closed,
}

impl StorageError {
    /// `source`, met when trying to `action` the file at `path`; a full disk gets its own variant. Not so for a sync,
    /// which is not to be tried again, whatever the reason, nor for cutting off what was written in part: whoever tried
    /// again would write behind it.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> StorageError {
        match source.kind() {
            _ if matches!(action, "sync" | "cut") => {
                StorageError::Io { action, path: path.to_owned(), source: Arc::new(source) }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { path: path.to_owned() },
            _ => StorageError::Io { action, path: path.to_owned(), source: Arc::new(source) },
        }
    }

    /// What was to be read is damaged or gone; not that the operating system lacks something, or forbids it.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            StorageError::Corrupt { .. } | StorageError::Panicked { .. } => true,
            StorageError::Io { source, .. } => {
                let unreadable = source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
                unreadable
                    || matches!(
                        source.kind(),
                        io::ErrorKind::UnexpectedEof
                            | io::ErrorKind::InvalidData
                            | io::ErrorKind::InvalidInput
                            | io::ErrorKind::NotFound
                            | io::ErrorKind::NotADirectory
                            | io::ErrorKind::IsADirectory
                    )
            }
            _ => false,
        }
    }

    /// Something at `path` that does not read as it was written.
    pub fn corrupt(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> StorageError {
        StorageError::Corrupt { path: path.to_owned(), source: Arc::from(source.into()) }
    }
}

/// Attaches what was being done, and to what, to an `io::Error`.
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError> {
        self.map_err(|e| StorageError::io(action, path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_waited_at_only_where_the_same_can_be_tried_again() {
        let met = |action| StorageError::io(action, Path::new("file"), io::ErrorKind::StorageFull.into());
        assert!(matches!(met("write"), StorageError::Full { .. }));
        for action in ["sync", "cut"] {
            assert!(matches!(met(action), StorageError::Io { .. }), "{action}");
        }
    }
}
