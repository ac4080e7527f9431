//! The truth about bindings: found by their identity, by source and by destination.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::command::{BindingSpec, DestinationKind};
use super::definition::binding_key;
use super::snapshot::Destination;

/// A binding as it exists.
pub struct Bound {
    pub spec: BindingSpec,
    pub to: Destination,
    pub durable: bool,
    /// Source, destination, key and arguments, these as a set of (name, type, value): tables are kept sorted by name,
    /// so their encoding tells. Also the binding's key in storage.
    pub identity: Arc<[u8]>,
}

impl Bound {
    pub fn new(vhost: &str, spec: BindingSpec, to: Destination, durable: bool) -> Bound {
        let identity = binding_key(vhost, &spec).into();
        Bound { spec, to, durable, identity }
    }

    fn destination(&self) -> (DestinationKind, Box<[u8]>) {
        (self.spec.kind, self.spec.destination.as_bytes().into())
    }

    fn source(&self) -> Box<[u8]> {
        self.spec.source.as_bytes().into()
    }
}

/// Bindings by identity.
type Set = HashMap<Arc<[u8]>, Arc<Bound>>;

#[derive(Default)]
pub struct Bindings {
    by_source: HashMap<Box<[u8]>, Set>,
    by_destination: HashMap<(DestinationKind, Box<[u8]>), Set>,
}

impl Bindings {
    pub fn add(&mut self, bound: Bound) {
        let bound = Arc::new(bound);
        let identity = &bound.identity;
        self.by_source.entry(bound.source()).or_default().insert(identity.clone(), bound.clone());
        self.by_destination.entry(bound.destination()).or_default().insert(identity.clone(), bound);
    }

    pub fn find(&self, vhost: &str, spec: &BindingSpec) -> Option<Arc<Bound>> {
        self.by_source.get(spec.source.as_bytes())?.get(&*binding_key(vhost, spec)).cloned()
    }

    pub fn remove(&mut self, bound: &Bound) {
        remove(&mut self.by_source, &bound.source(), bound);
        remove(&mut self.by_destination, &bound.destination(), bound);
    }

    pub fn has_source(&self, name: &[u8]) -> bool {
        self.by_source.contains_key(name)
    }

    /// Takes all bindings from an exchange off the lists.
    pub fn take_source(&mut self, name: &[u8]) -> Vec<Arc<Bound>> {
        let gone = self.by_source.remove(name).unwrap_or_default();
        for bound in gone.values() {
            remove(&mut self.by_destination, &bound.destination(), bound);
        }
        gone.into_values().collect()
    }

    /// Takes all bindings to a queue or an exchange off the lists.
    pub fn take_destination(&mut self, kind: DestinationKind, name: &[u8]) -> Vec<Arc<Bound>> {
        let gone = self.by_destination.remove(&(kind, name.into())).unwrap_or_default();
        for bound in gone.values() {
            remove(&mut self.by_source, &bound.source(), bound);
        }
        gone.into_values().collect()
    }
}

fn remove<K: Eq + Hash>(map: &mut HashMap<K, Set>, key: &K, bound: &Bound) {
    if let Some(set) = map.get_mut(key) {
        set.remove(&bound.identity);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
