//! Fanout: every binding matches; keys and arguments only make bindings distinct.

use std::sync::Arc;

use super::Destination;
use super::bindings::{Arguments, Bindings};

/// All bindings, told apart by key and arguments.
#[derive(Clone)]
pub(super) struct FanoutTable<D> {
    bindings: Bindings<D, (Arc<[u8]>, Arguments)>,
}

impl<D: Destination> FanoutTable<D> {
    pub fn new() -> Self {
        Self { bindings: Bindings::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    pub fn bind(&mut self, key: &[u8], (to, arguments): (D, Arguments)) -> bool {
        self.bindings.add((to, (key.into(), arguments)))
    }

    pub fn unbind(&mut self, key: &[u8], (to, arguments): (D, Arguments)) -> bool {
        self.bindings.remove(&(to, (key.into(), arguments)))
    }

    pub fn route(&self, found: &mut dyn FnMut(&D)) {
        self.bindings.each(found);
    }
}
