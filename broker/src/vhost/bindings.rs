//! The truth about bindings: found by their identity, by source and by destination.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use leveret_protocol::value::encode_table;

use super::command::{BindingSpec, DestinationKind};
use super::snapshot::Destination;

/// A binding as it exists. Its identity is source, destination, key and arguments, these as a set of (name, type,
/// value): tables are kept sorted by name, so their encoding tells.
pub struct Bound {
    pub spec: BindingSpec,
    pub to: Destination,
    pub durable: bool,
    arguments: Vec<u8>,
}

impl Bound {
    pub fn new(spec: BindingSpec, to: Destination, durable: bool) -> Bound {
        Bound {
            arguments: encode_table(&spec.arguments),
            spec,
            to,
            durable,
        }
    }

    fn identity(&self) -> (&str, DestinationKind, &str, &[u8], &[u8]) {
        let spec = &self.spec;
        (
            &spec.source,
            spec.kind,
            &spec.destination,
            &spec.key,
            &self.arguments,
        )
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Bound) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Bound {}

impl Hash for Bound {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

type Set = HashSet<Arc<Bound>>;

#[derive(Default)]
pub struct Bindings {
    by_source: HashMap<Box<[u8]>, Set>,
    by_destination: HashMap<(DestinationKind, Box<[u8]>), Set>,
}

impl Bindings {
    pub fn add(&mut self, bound: Bound) {
        let bound = Arc::new(bound);
        let source = bound.spec.source.as_bytes().into();
        self.by_source
            .entry(source)
            .or_default()
            .insert(bound.clone());
        self.by_destination
            .entry(destination(&bound))
            .or_default()
            .insert(bound);
    }

    pub fn find(&self, spec: &BindingSpec) -> Option<Arc<Bound>> {
        // Only the identity is looked at.
        let like = Bound::new(spec.clone(), Destination::Exchange(Arc::new([])), false);
        self.by_source
            .get(spec.source.as_bytes())?
            .get(&like)
            .cloned()
    }

    pub fn remove(&mut self, bound: &Bound) {
        remove(
            &mut self.by_source,
            &Box::from(bound.spec.source.as_bytes()),
            bound,
        );
        remove(&mut self.by_destination, &destination(bound), bound);
    }

    pub fn has_source(&self, name: &[u8]) -> bool {
        self.by_source.contains_key(name)
    }

    /// Takes all bindings from an exchange off the lists.
    pub fn take_source(&mut self, name: &[u8]) -> Set {
        let gone = self.by_source.remove(name).unwrap_or_default();
        for bound in &gone {
            remove(&mut self.by_destination, &destination(bound), bound);
        }
        gone
    }

    /// Takes all bindings to a queue or an exchange off the lists.
    pub fn take_destination(&mut self, kind: DestinationKind, name: &[u8]) -> Set {
        let gone = self
            .by_destination
            .remove(&(kind, name.into()))
            .unwrap_or_default();
        for bound in &gone {
            remove(
                &mut self.by_source,
                &Box::from(bound.spec.source.as_bytes()),
                bound,
            );
        }
        gone
    }
}

fn destination(bound: &Bound) -> (DestinationKind, Box<[u8]>) {
    (bound.spec.kind, bound.spec.destination.as_bytes().into())
}

fn remove<K: Eq + Hash>(map: &mut HashMap<K, Set>, key: &K, bound: &Bound) {
    if let Some(set) = map.get_mut(key) {
        set.remove(bound);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
