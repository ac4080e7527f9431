//! Direct: the binding key equals the routing key, byte for byte.

use std::sync::Arc;

use super::Destination;
use super::bindings::{Arguments, Bindings};

/// Binding key → the bindings with it. One look-up per message, whatever the number of bindings.
#[derive(Clone)]
pub(super) struct DirectTable<D> {
    /// Behind `Arc`s, so that copying a node of the map copies pointers, not lists.
    by_key: imbl::HashMap<Arc<[u8]>, Arc<Bindings<D, Arguments>>>,
}

impl<D: Destination> DirectTable<D> {
    pub fn new() -> Self {
        Self { by_key: imbl::HashMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub fn bind(&mut self, key: &[u8], binding: (D, Arguments)) -> bool {
        match self.by_key.get(key) {
            Some(bindings) if bindings.contains(&binding) => return false,
            Some(_) => {
                if let Some(bindings) = self.by_key.get_mut(key) {
                    Arc::make_mut(bindings).add(binding);
                }
            }
            None => {
                let mut bindings = Bindings::new();
                bindings.add(binding);
                self.by_key.insert(key.into(), Arc::new(bindings));
            }
        }
        true
    }

    pub fn unbind(&mut self, key: &[u8], binding: &(D, Arguments)) -> bool {
        match self.by_key.get(key) {
            Some(bindings) if bindings.contains(binding) => {}
            _ => return false,
        }
        if let Some(bindings) = self.by_key.get_mut(key) {
            let bindings = Arc::make_mut(bindings);
            bindings.remove(binding);
            if bindings.is_empty() {
                self.by_key.remove(key);
            }
        }
        true
    }

    pub fn route(&self, key: &[u8], found: &mut dyn FnMut(&D)) {
        if let Some(bindings) = self.by_key.get(key) {
            bindings.each(found);
        }
    }
}
