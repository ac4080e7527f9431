//! What sits at one place of a routing table: the bindings that match there together.

use std::hash::Hash;
use std::sync::Arc;

use amq_protocol::types::FieldTable;
use leveret_protocol::value::encode_table;

use super::Destination;
use super::small_map::SmallMap;

/// The part of a binding's identity that its arguments make: equal for equal sets of (name, type, value), whatever
/// their order. Kept as bytes (in which a table is sorted by name), so that it is compared and hashed cheaply and a
/// NaN equals itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Arguments(Option<Arc<[u8]>>);

impl Arguments {
    pub fn of(table: &FieldTable) -> Self {
        if table.inner().is_empty() {
            return Self(None); // nearly all bindings, without an allocation
        }
        Self(Some(encode_table(table).into()))
    }
}

/// Bindings that match together. `I` is what makes two bindings to one destination distinct here.
#[derive(Clone)]
pub(super) struct Bindings<D, I>(SmallMap<(D, I), ()>);

impl<D: Destination, I: Clone + Eq + Hash> Bindings<D, I> {
    pub fn new() -> Self {
        Self(SmallMap::new())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, binding: &(D, I)) -> bool {
        self.0.get(binding).is_some()
    }

    /// False: it was there already.
    pub fn add(&mut self, binding: (D, I)) -> bool {
        let new = !self.contains(&binding);
        if new {
            self.0.insert(binding, ());
        }
        new
    }

    /// False: it was not there.
    pub fn remove(&mut self, binding: &(D, I)) -> bool {
        self.0.remove(binding)
    }

    pub fn each(&self, found: &mut dyn FnMut(&D)) {
        match &self.0 {
            SmallMap::Few(list) => list.iter().for_each(|((to, _), ())| found(to)),
            SmallMap::Many(map) => map.keys().for_each(|(to, _)| found(to)),
        }
    }
}
