//! The backend that keeps nothing: for tests and for brokers whose data may die with them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::{Backend, Batch, Reader, Recovered};
use crate::error::StorageError;
use crate::marks::Marks;

/// Accepts everything, remembers nothing: the broker's own memory is the only copy.
#[derive(Debug)]
pub struct MemoryBackend {
    marks: Marks,
}

/// A store without a disk. It recovers nothing, and every level is reached at once.
pub fn open_memory() -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    let backend = MemoryBackend { marks: Marks::in_memory() };
    let recovered = Recovered { clean: true, ..Recovered::default() };
    Ok((Box::new(backend), recovered))
}

impl Backend for MemoryBackend {
    fn commit(&mut self, batch: &Batch) -> Result<(), StorageError> {
        // Whoever spills lets go of the only copy.
        if batch.queues.iter().any(|queue| !queue.spills.is_empty()) {
            return Err(StorageError::io("spill into", &self.path(), io::ErrorKind::Unsupported.into()));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        None
    }

    fn close(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("memory")
    }
}
