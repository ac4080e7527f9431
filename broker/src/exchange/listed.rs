//! Bindings in a row, of which one is chosen: by hash (x-modulus-hash) or by chance (x-random, x-local-random).

use std::sync::Arc;

use super::Destination;
use super::bindings::Arguments;
use super::hash::{random_below, stable};

/// All bindings, sorted by the hash of their identity: the same bindings are the same row, whatever the order in which
/// they were made.
#[derive(Clone)]
pub(super) struct ListedTable<D> {
    row: imbl::Vector<Listed<D>>,
}

#[derive(Clone)]
struct Listed<D> {
    hash: u64,
    to: D,
    key: Arc<[u8]>,
    arguments: Arguments,
}

impl<D: Destination> ListedTable<D> {
    pub fn new() -> Self {
        Self { row: imbl::Vector::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    pub fn bind(&mut self, key: &[u8], (to, arguments): (D, Arguments)) -> bool {
        let binding = Listed::new(key, to, arguments);
        match self.find(&binding) {
            Ok(_) => false,
            Err(at) => {
                self.row.insert(at, binding);
                true
            }
        }
    }

    pub fn unbind(&mut self, key: &[u8], (to, arguments): (D, Arguments)) -> bool {
        match self.find(&Listed::new(key, to, arguments)) {
            Ok(at) => {
                self.row.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// Where the binding is, or where it belongs.
    fn find(&self, binding: &Listed<D>) -> Result<usize, usize> {
        let mut at = self.row.binary_search_by(|other| other.hash.cmp(&binding.hash))?;
        while at > 0 && self.row[at - 1].hash == binding.hash {
            at -= 1;
        }
        while let Some(other) = self.row.get(at).filter(|other| other.hash == binding.hash) {
            if other.is(binding) {
                return Ok(at);
            }
            at += 1;
        }
        Err(at)
    }

    /// The binding that all of the message's routing keys together lead to.
    pub fn route_by_keys(&self, keys: &[&[u8]], found: &mut dyn FnMut(&D)) {
        let count = self.row.len().max(1) as u64;
        if let Some(chosen) = self.row.get((stable(keys) % count) as usize) {
            found(&chosen.to);
        }
    }

    pub fn route_by_chance(&self, found: &mut dyn FnMut(&D)) {
        if let Some(chosen) = self.row.get(random_below(self.row.len())) {
            found(&chosen.to);
        }
    }
}

impl<D: Destination> Listed<D> {
    fn new(key: &[u8], to: D, arguments: Arguments) -> Self {
        Self { hash: stable(&(&to, key, &arguments)), to, key: key.into(), arguments }
    }

    fn is(&self, other: &Self) -> bool {
        self.to == other.to && self.key == other.key && self.arguments == other.arguments
    }
}
