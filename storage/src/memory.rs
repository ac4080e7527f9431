//! The backend that keeps nothing: for tests and for brokers whose data may die with them.

use std::path::PathBuf;

use crate::backend::{Backend, Batch, Recovered};
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
    fn commit(&mut self, _batch: &Batch) -> Result<(), StorageError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        Ok(())
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
